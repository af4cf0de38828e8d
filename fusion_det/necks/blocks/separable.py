"""Depthwise separable convolution."""

from __future__ import annotations

from typing import Literal

from torch import nn

from fusion_det.layers import init_conv, make_norm
from fusion_det.necks.conv import activate


class Separable(nn.Sequential):
    """3x3 convolution per channel, 1x1 convolution across channels, normalisation (EfficientDet, CVPR 2020, arXiv 1911.09070).

    The paper's text says BatchNorm and activation after each convolution; its code activates before (``act_conv_norm``) and gives the
    1x1 convolution a bias, although BatchNorm follows. The defaults are the code's.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        norm: Literal["none", "bn", "gn"] = "bn",
        activation: Literal["none", "relu", "silu", "leaky_relu"] = "silu",
        order: Literal["conv_norm_act", "act_conv_norm"] = "act_conv_norm",
        bias: bool = True,
    ) -> None:
        width = out_channels or channels
        depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        pointwise = nn.Conv2d(channels, width, 1, bias=bias)
        for conv in (depthwise, pointwise):
            init_conv(conv)
        first = order == "act_conv_norm"
        convs = [depthwise, pointwise, make_norm(norm, width)]
        act = activate(activation, inplace=not first)
        super().__init__(*([act, *convs] if first else [*convs, act]))
