"""Cross-stage partial block."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor, nn

from fusion_det.necks.conv import ConvUnit, separable


class CSP(nn.Module):
    """Two 1x1 paths, one through ``depth`` pairs of 1x1 and 3x3 convolutions, joined by concatenation and a 1x1 convolution.

    Wang et al., CVPRW 2020, arXiv 1911.11929, as YOLOX's neck uses it (arXiv 2107.08430): no shortcut around the pairs, half the
    width inside. ``depthwise``: the 3x3 convolutions are separable ones (YOLOX-Nano).
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        depth: NonNegativeInt = 3,
        expansion: PositiveFloat = 0.5,
        shortcut: bool = False,
        depthwise: bool = False,
        norm: Literal["none", "bn", "gn"] = "bn",
        activation: Literal["none", "relu", "silu", "leaky_relu"] = "silu",
    ) -> None:
        super().__init__()
        width = out_channels or channels
        hidden = max(int(width * expansion), 1)

        def unit(inner: int, outer: int, kernel: int) -> nn.Module:
            kind = separable if depthwise and kernel > 1 else ConvUnit
            return kind(inner, outer, kernel, norm=norm, activation=activation)

        self.shortcut = shortcut
        self.conv1, self.conv2 = unit(channels, hidden, 1), unit(channels, hidden, 1)
        self.pairs = nn.ModuleList(nn.Sequential(unit(hidden, hidden, 1), unit(hidden, hidden, 3)) for _ in range(depth))
        self.conv3 = unit(2 * hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C_out, H, W]."""
        deep = self.conv1(x)
        for pair in self.pairs:
            deep = pair(deep) + deep if self.shortcut else pair(deep)
        return self.conv3(torch.cat([deep, self.conv2(x)], dim=1))
