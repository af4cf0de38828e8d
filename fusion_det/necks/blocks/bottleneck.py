"""Residual blocks."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor, nn

from fusion_det.layers import init_conv, make_norm
from fusion_det.necks.conv import ConvUnit, activate


class Bottleneck(nn.Module):
    """1x1 to ``expansion`` x channels, 3x3, 1x1 back, plus the input (He et al., CVPR 2016, arXiv 1512.03385, Fig. 5 right)."""

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        expansion: PositiveFloat = 0.25,
        norm: Literal["none", "bn", "gn"] = "bn",
        activation: Literal["none", "relu", "silu", "leaky_relu"] = "relu",
    ) -> None:
        super().__init__()
        width = out_channels or channels
        hidden = max(int(width * expansion), 1)
        self.shortcut: nn.Module = nn.Identity() if width == channels else ConvUnit(channels, width, 1, norm=norm)
        self.convs = nn.Sequential(
            ConvUnit(channels, hidden, 1, norm=norm, activation=activation),
            ConvUnit(hidden, hidden, 3, norm=norm, activation=activation),
            ConvUnit(hidden, width, 1, norm=norm),
        )
        self.activation = activate(activation, inplace=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C_out, H, W]."""
        return self.activation(self.convs(x) + self.shortcut(x))


class BasicResidual(nn.Module):
    """Two 3x3 convolutions with bias and BatchNorm, plus the input, an activation after the first and after the sum (AFPN's code)."""

    def __init__(
        self, channels: int, norm: Literal["none", "bn", "gn"], activation: Literal["none", "relu", "silu", "leaky_relu"] = "relu"
    ) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, channels, 3, padding=1), make_norm(norm, channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 3, padding=1), make_norm(norm, channels)
        for conv in (self.conv1, self.conv2):
            init_conv(conv)
        self.activation = activate(activation, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        y = self.activation(self.norm1(self.conv1(x)))
        return self.activation(self.norm2(self.conv2(y)) + x)


class ConvResidual(nn.Sequential):
    """3x3 convolution, norm, activation, then ``count`` residual blocks: what follows each fusion in AFPN (arXiv 2306.15988)."""

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        count: NonNegativeInt = 4,
        norm: Literal["none", "bn", "gn"] = "bn",
        activation: Literal["none", "relu", "silu", "leaky_relu"] = "relu",
    ) -> None:
        width = out_channels or channels
        residual = (BasicResidual(width, norm, activation) for _ in range(count))
        super().__init__(ConvUnit(channels, width, 3, norm=norm, activation=activation), *residual)
