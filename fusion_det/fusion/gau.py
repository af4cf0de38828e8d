"""Modulation by the other level: global attention upsampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from fusion_det.fusion.fold import Fold, GatedPair
from fusion_det.fusion.gates import PooledStatistics, bottleneck_width
from fusion_det.fusion.ms_cam import MultiScaleAttention
from fusion_det.fusion.operator import FusionOperator
from fusion_det.layers import NormKind


class ModulatedPair(GatedPair):
    """``z = G(y) x + y``."""

    def __init__(self, attention: MultiScaleAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two maps [B, C, H, W] -> one."""
        gate = self.attention(y)
        self.keep(gate)
        return gate * x + y

    def factors(self, gate: Tensor) -> tuple[Tensor, Tensor]:
        return gate, torch.ones_like(gate)


class GAU(FusionOperator):
    """``z = G(y) x + y``: the other level says which channels of the own level x count, then both are added.

    The modulation row of Table 1 in Dai et al., WACV 2021, arXiv 2009.14082; first in Li, Xiong, An and Wang, *Pyramid Attention
    Network*, BMVC 2018, arXiv 1805.10180, Sec. 3.2 (x low, y high level). ``context``: ``multi_scale`` makes G an MS-CAM (MS-GAU, Table 4),
    ``global`` takes its global branch only. Deviations from Li et al.: no 3x3 convolution on x (the neck's block comes after), G is a
    bottleneck with sigmoid as in Dai et al. instead of one 1x1 convolution. N inputs: folded, :mod:`fusion_det.fusion.fold`.
    """

    def __init__(
        self,
        channels: int,
        num_inputs: int,
        *,
        context: Literal["multi_scale", "global"] = "multi_scale",
        reduction: PositiveInt = 4,
        minimum_width: PositiveInt = 4,
        norm: NormKind = "bn",
        statistics: PooledStatistics = "running",
    ) -> None:
        super().__init__(channels, num_inputs)
        local, hidden = context == "multi_scale", bottleneck_width(channels, reduction, minimum_width)
        self.fold = Fold(lambda: ModulatedPair(MultiScaleAttention(channels, hidden, norm, statistics, local=local)), num_inputs)

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.fold(inputs)

    def probe(self) -> dict[str, Tensor]:
        """``weights`` [B, N, h, w]; that of the last input is always 1."""
        return self.fold.weights()
