"""Further levels as FPN and RetinaNet make them."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import NonNegativeInt
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.layers import StridedConv2d, init_conv, make_norm


class ExtraLevels(nn.Module):
    """``count`` further levels, each of twice the stride of the one before; without parameters for ``count`` 0 or ``maxpool``.

    ``maxpool``: every second pixel of the coarsest output (FPN's P6). ``conv_on_output`` / ``conv_on_input`` / ``conv_on_entry``: 3x3
    stride-2 convolutions starting from the coarsest output, from the backbone's deepest map or from its entry (mmdetection's
    ``on_lateral``). ``relu``: a ReLU before every convolution but the first (RetinaNet's P7; mmdetection's own RetinaNet has none).
    ``norm`` follows each convolution, which then has no bias.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        count: NonNegativeInt = 0,
        kind: Literal["maxpool", "conv_on_output", "conv_on_input", "conv_on_entry"] = "maxpool",
        relu: bool = True,
        norm: Literal["none", "bn", "gn"] = "none",
    ) -> None:
        super().__init__()
        self.count, self.kind, self.relu = count, kind, relu
        self.reads_entry = kind == "conv_on_entry" and count > 0
        self.reads_output = kind != "conv_on_input"
        first = in_channels if kind == "conv_on_input" else channels
        convs = 0 if kind == "maxpool" else count
        self.convs = nn.ModuleList(
            StridedConv2d(channels if i else first, channels, 3, stride=2, padding=1, bias=norm == "none") for i in range(convs)
        )
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            init_conv(conv)
        self.norms = nn.ModuleList(make_norm(norm, channels) for _ in range(convs))

    def forward(self, deepest_input: Tensor, coarsest_output: Tensor) -> list[Tensor]:
        """Deepest backbone map [B, C_in, H, W] and coarsest neck map (``reads_entry``: deepest entry) [B, C, H, W] -> ``count`` maps."""
        x = deepest_input if self.kind == "conv_on_input" else coarsest_output
        maps: list[Tensor] = []
        for i in range(self.count):
            if self.kind == "maxpool":
                x = F.max_pool2d(x, kernel_size=1, stride=2)
            else:
                x = self.norms[i](self.convs[i](torch.relu(x) if i and self.relu else x))
            maps.append(x)
        return maps
