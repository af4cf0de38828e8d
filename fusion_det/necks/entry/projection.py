"""1x1 convolutions to the neck's width."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import PositiveInt
from torch import nn

from fusion_det.necks.conv import ConvUnit


class Projection(ConvUnit):
    """1x1 convolution to the neck's width (FPN's lateral connection), with an optional normalisation and no activation.

    ``bias`` of the convolution: ``None`` only without norm (YOLOF has one before its BatchNorm, all but one of HRFPN's have none).
    """

    def __init__(self, in_channels: int, channels: int, *, norm: Literal["none", "bn", "gn"] = "none", bias: bool | None = None) -> None:
        super().__init__(in_channels, channels, 1, norm=norm, bias=bias)


class StackedProjection(nn.Sequential):
    """``count`` 1x1 convolutions in a row, each with normalisation and activation (AFPN, arXiv 2306.15988, has two)."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        count: PositiveInt = 2,
        norm: Literal["none", "bn", "gn"] = "bn",
        activation: Literal["none", "relu", "silu", "leaky_relu"] = "relu",
    ) -> None:
        widths = [in_channels, *[channels] * count]
        super().__init__(*(ConvUnit(a, b, 1, norm=norm, activation=activation) for a, b in pairwise(widths)))
