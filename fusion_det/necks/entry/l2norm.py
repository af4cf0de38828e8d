"""Normalisation over channels with a learned scale."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.layers import init_conv


class L2Norm(nn.Module):
    """``y_c = g_c x_c / |x|_2`` at every position, one learned g per channel (ParseNet, arXiv 1506.04579, Eq. 3); fp32 inside."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]; where the map is zero at a position, so is the result."""
        return (F.normalize(x.float(), dim=1) * self.scale.float().view(1, -1, 1, 1)).to(x.dtype)


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
