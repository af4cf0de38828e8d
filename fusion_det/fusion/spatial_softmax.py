"""A choice per position: adaptively spatial feature fusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from fusion_det.fusion.gates import gated_sum
from fusion_det.fusion.operator import FusionOperator
from fusion_det.layers import NormKind, init_conv, make_activation, make_norm


class SpatialSoftmax(FusionOperator):
    """``y = sum_i a_i x_i``, the a_i a softmax over the inputs at each position, from all inputs there (ASFF).

    Liu, Huang and Wang, 2019, arXiv 1911.09516, Eq. 1-2: 1x1 convolution, norm and activation to ``width`` channels per input
    (``compress.i``, the authors' ``weight_level_*``), concatenation, 1x1 convolution to N logits (``weight_levels``). With zero logits
    it is ``mean``. The authors' code has LeakyReLU 0.1 and width 16, or 8 with its RFB; AFPN's (arXiv 2306.15988) ReLU and 8, or SiLU
    for YOLOv5. Deviations: only the fusion; resizing before and the 3x3 convolution after it are the neck's; inputs are counted own
    level first, not by depth, so the rows and columns of published ``weight_levels`` have to be put in this order.
    """

    def __init__(
        self,
        channels: int,
        num_inputs: int,
        *,
        width: PositiveInt = 16,
        norm: NormKind = "bn",
        activation: Literal["relu", "silu", "leaky_relu"] = "leaky_relu",
    ) -> None:
        super().__init__(channels, num_inputs)

        def compress() -> nn.Sequential:
            conv = nn.Conv2d(channels, width, kernel_size=1, bias=norm == "none")
            init_conv(conv)
            made = nn.LeakyReLU(0.1, inplace=True) if activation == "leaky_relu" else make_activation(activation)
            return nn.Sequential(conv, make_norm(norm, width), made)

        self.compress = nn.ModuleList(compress() for _ in range(num_inputs))
        self.weight_levels = nn.Conv2d(num_inputs * width, num_inputs, kernel_size=1)
        init_conv(self.weight_levels)

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        compressed = torch.cat([part(x) for part, x in zip(self.compress, inputs, strict=True)], dim=1)
        weights = self.weight_levels(compressed).float().softmax(dim=1)  # [B, N, H, W]
        self.remember(weights=weights)
        return gated_sum(inputs, weights.split(1, dim=1))
