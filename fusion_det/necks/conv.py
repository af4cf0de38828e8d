"""The convolution that blocks, entries, resamplers and contexts are made of."""

from __future__ import annotations

from typing import Literal

from torch import nn

from fusion_det.layers import StridedConv2d, init_conv, make_activation, make_norm

NormKind = Literal["none", "bn", "gn"]
ActivationKind = Literal["none", "relu", "silu", "leaky_relu"]
OrderKind = Literal["conv_norm_act", "act_conv_norm"]


class ConvUnit(nn.Sequential):
    """Convolution, normalisation and activation, in this order or with the activation first; the size is kept at stride 1.

    ``bias``: ``None`` gives the convolution a bias only where no normalisation follows. An activation that comes first works on a
    copy, because others may read the same map.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        norm: NormKind = "none",
        activation: ActivationKind = "none",
        order: OrderKind = "conv_norm_act",
        bias: bool | None = None,
    ) -> None:
        padding = dilation * (kernel_size - 1) // 2
        bias = norm == "none" if bias is None else bias
        convolution = StridedConv2d if stride > 1 else nn.Conv2d
        conv = convolution(in_channels, channels, kernel_size, stride, padding, dilation, groups, bias=bias)
        init_conv(conv)
        if order == "act_conv_norm":
            super().__init__(activate(activation, inplace=False), conv, make_norm(norm, channels))
        else:
            super().__init__(conv, make_norm(norm, channels), activate(activation, inplace=True))


def separable(
    in_channels: int, channels: int, kernel_size: int, *, stride: int = 1, norm: NormKind, activation: ActivationKind
) -> nn.Module:
    """A convolution per channel, then 1x1 across channels, each a :class:`ConvUnit` with normalisation and activation (YOLOX-Nano)."""
    return nn.Sequential(
        ConvUnit(in_channels, in_channels, kernel_size, stride=stride, groups=in_channels, norm=norm, activation=activation),
        ConvUnit(in_channels, channels, 1, norm=norm, activation=activation),
    )


def activate(kind: ActivationKind, *, inplace: bool) -> nn.Module:
    """The activation of that name; ``leaky_relu`` has slope 0.1 (YOLO). SiLU's gradient needs its input, so in place it would copy it."""
    made: nn.Module = nn.LeakyReLU(0.1) if kind == "leaky_relu" else make_activation(kind)
    if isinstance(made, nn.ReLU | nn.SiLU | nn.LeakyReLU):
        made.inplace = inplace and not isinstance(made, nn.SiLU)
    return made


def set_batch_norm(module: nn.Module, eps: float | None, momentum: float | None) -> None:
    """Give every BatchNorm inside ``module`` the constants that a published network was trained with; ``None``: torch's."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = norm.eps if eps is None else eps
            norm.momentum = norm.momentum if momentum is None else momentum
