"""Further levels as FPN and RetinaNet make them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.layers import StridedConv2d, init_conv


class ExtraLevels(nn.Module):
    """``count`` further levels, each of twice the stride of the one before; without parameters for ``count`` 0 or ``maxpool``.

    ``maxpool``: every second pixel of the coarsest output (FPN's P6). ``conv_on_output`` / ``conv_on_input``: 3x3 stride-2
    convolutions starting from the coarsest output or from the backbone's deepest map, ReLU between them (RetinaNet's P6 and P7).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        count: int = 0,
        kind: Literal["maxpool", "conv_on_output", "conv_on_input"] = "maxpool",
    ) -> None:
        super().__init__()
        self.count, self.kind = count, kind
        self.reads_output = kind != "conv_on_input"
        first = in_channels if kind == "conv_on_input" else channels
        convs = 0 if kind == "maxpool" else count
        self.convs = nn.ModuleList(StridedConv2d(channels if i else first, channels, 3, stride=2, padding=1) for i in range(convs))
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            init_conv(conv)

    def forward(self, deepest_input: Tensor, coarsest_output: Tensor) -> list[Tensor]:
        """Deepest backbone map [B, C_in, H, W] and coarsest neck map [B, C, H, W] -> ``count`` maps [B, C, H/2^i, W/2^i]."""
        x = deepest_input if self.kind == "conv_on_input" else coarsest_output
        maps: list[Tensor] = []
        for i in range(self.count):
            if self.kind == "maxpool":
                x = F.max_pool2d(x, kernel_size=1, stride=2)
            else:
                x = self.convs[i](torch.relu(x) if i else x)
            maps.append(x)
        return maps
