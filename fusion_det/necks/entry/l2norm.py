"""Normalisation over channels with a learned scale."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.layers import init_conv

EPS = 1e-12


class L2Norm(nn.Module):
    """``y_c = g_c x_c / |x|_2`` at every position, one learned g per channel (ParseNet, arXiv 1506.04579, Eq. 3); fp32 inside."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]; where the map is zero at a position, so is the result."""
        return (x.float() * inverse_norm(x) * self.scale.float().view(1, -1, 1, 1)).to(x.dtype)


class L2NormEntry(nn.Sequential):
    """L2Norm, so that levels of different magnitude can be joined (SSD's conv4_3: scale 20; ION: all levels).

    ``project``: whether a 1x1 convolution to the neck's width follows; with ``never`` the level keeps the backbone's width. Serves as a
    block too.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int | None = None,
        *,
        scale: PositiveFloat = 20.0,
        project: Literal["always", "if_needed", "never"] = "always",
    ) -> None:
        super().__init__(L2Norm(in_channels, scale))
        channels = channels or in_channels
        self.out_channels = in_channels if project == "never" else channels
        if project == "always" or self.out_channels != in_channels:
            conv = nn.Conv2d(in_channels, channels, kernel_size=1)
            init_conv(conv)
            self.append(conv)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C, H, W]."""
        norm, conv = self[0], self[-1]
        if not (isinstance(norm, L2Norm) and isinstance(conv, nn.Conv2d)):
            return norm(x)
        assert conv.bias is not None
        # W (g x / |x|) + b as (W g) x / |x| + b: scaling the weights and dividing the narrow result costs a third of scaling the map
        narrow = F.conv2d(x, conv.weight * norm.scale.view(1, -1, 1, 1))
        return (narrow * inverse_norm(x)).add_(conv.bias.view(1, -1, 1, 1)).to(narrow.dtype)  # addcmul's gradient has a pass more


def inverse_norm(x: Tensor) -> Tensor:
    """``1 / |x|_2`` over channels, [B, C, H, W] -> [B, 1, H, W] float32; where the map is zero, 1e12, without gradient."""
    return _InverseNorm.apply(x)


class _InverseNorm(torch.autograd.Function):
    """Its gradient ``-x / |x|^3`` is one pass over the map, where that of torch's norm is four."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        inverse = length.clamp(min=EPS).reciprocal()
        ctx.save_for_backward(x, inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        x, inverse = ctx.saved_tensors
        factor = torch.where(inverse < 0.99 / EPS, -gradient * inverse**3, 0)
        return (x * factor).to(x.dtype)
