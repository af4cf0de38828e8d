"""How a backbone level comes in: ``Entry(in_channels, channels, *, options)``, forward [B, C_in, H, W] -> [B, C, H, W]."""

from __future__ import annotations

from typing import Literal

from fusion_det.layers import ConvNormAct


class Projection(ConvNormAct):
    """1x1 convolution to the neck's width (FPN's lateral connection), with an optional normalisation and no activation."""

    def __init__(self, in_channels: int, channels: int, *, norm: Literal["none", "bn", "gn"] = "none") -> None:
        super().__init__(in_channels, channels, kernel_size=1, norm=norm)
