"""Plain convolutions, and none."""

from __future__ import annotations

from typing import Literal

from torch import nn

from fusion_det.layers import init_conv
from fusion_det.necks.conv import ConvUnit


class Conv3x3(ConvUnit):
    """3x3 convolution; FPN's smoothing layer is this without normalisation and activation.

    ``order="act_conv_norm"`` with ReLU and BatchNorm is what NAS-FPN and FPG use; NAS-FPN keeps the bias before the BatchNorm.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        norm: Literal["none", "bn", "gn"] = "none",
        activation: Literal["none", "relu", "silu", "leaky_relu"] = "none",
        order: Literal["conv_norm_act", "act_conv_norm"] = "conv_norm_act",
        bias: bool | None = None,
    ) -> None:
        super().__init__(channels, out_channels or channels, 3, norm=norm, activation=activation, order=order, bias=bias)


class Conv1x1(ConvUnit):
    """1x1 convolution: what changes the width of a single map (the lateral connections of RT-DETR and YOLOX, AFPN's last step)."""

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        norm: Literal["none", "bn", "gn"] = "none",
        activation: Literal["none", "relu", "silu", "leaky_relu"] = "none",
        order: Literal["conv_norm_act", "act_conv_norm"] = "conv_norm_act",
        bias: bool | None = None,
    ) -> None:
        super().__init__(channels, out_channels or channels, 1, norm=norm, activation=activation, order=order, bias=bias)


class NoBlock(nn.Sequential):
    """The fused map as it is; a 1x1 convolution only where the width has to change."""

    def __init__(self, channels: int, out_channels: int | None = None) -> None:
        super().__init__()
        if out_channels not in (None, channels):
            assert out_channels is not None
            conv = nn.Conv2d(channels, out_channels, kernel_size=1)
            init_conv(conv)
            self.append(conv)
