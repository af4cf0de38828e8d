"""Levels as the backbone gives them."""

from __future__ import annotations

from typing import Literal

from torch import nn

from fusion_det.necks.conv import ConvUnit


class Identity(nn.Identity):
    """The level as it is, in the backbone's width (SSD, MS-CNN)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.out_channels = in_channels


class ProjectionIfNeeded(nn.Sequential):
    """The level as it is where it has the width already, else through a 1x1 convolution (EfficientDet's code).

    The necks of YOLOX and ASFF have no convolution here: give them the backbone's widths. ``bias``: ``None`` only without norm.
    """

    def __init__(self, in_channels: int, channels: int, *, norm: Literal["none", "bn", "gn"] = "none", bias: bool | None = None) -> None:
        super().__init__(*([] if in_channels == channels else [ConvUnit(in_channels, channels, 1, norm=norm, bias=bias)]))
