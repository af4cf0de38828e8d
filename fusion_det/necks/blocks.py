"""What follows a fusion: ``Block(channels, *, options)``, forward [B, C, H, W] -> [B, C, H, W]."""

from __future__ import annotations

from typing import Literal

from torch import nn

from fusion_det.layers import ConvNormAct


class Conv3x3(ConvNormAct):
    """3x3 convolution; FPN's smoothing layer is this without normalisation and activation."""

    def __init__(
        self,
        channels: int,
        *,
        norm: Literal["none", "bn", "gn"] = "none",
        activation: Literal["none", "relu", "silu"] = "none",
    ) -> None:
        super().__init__(channels, channels, kernel_size=3, norm=norm, activation=activation)


class NoBlock(nn.Identity):
    """The fused map as it is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
