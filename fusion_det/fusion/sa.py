"""Modulation by both levels."""

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


class JointlyModulatedPair(GatedPair):
    """``z = G([x; y]) x + y``."""

    def __init__(self, attention: MultiScaleAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two maps [B, C, H, W] -> one."""
        gate = self.attention(torch.cat([x, y], dim=1))
        self.keep(gate)
        return gate * x + y

    def factors(self, gate: Tensor) -> tuple[Tensor, Tensor]:
        return gate, torch.ones_like(gate)


class SA(FusionOperator):
    """``z = G(x, y) x + y``: both levels together say which channels of the own level x count, then both are added.

    The row *SA* (modulation, fully context-aware) of Table 1 in Dai et al., WACV 2021, arXiv 2009.14082. The table leaves open how
    G joins its arguments; here it sees both, concatenated (with their sum it would be AFF's gate). ``context``: ``multi_scale`` makes G
    an MS-CAM (MS-SA, Table 4), ``global`` takes its global branch only. N inputs: folded, :mod:`fusion_det.fusion.fold`.
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

        def attention() -> MultiScaleAttention:
            return MultiScaleAttention(channels, hidden, norm, statistics, in_channels=2 * channels, local=local)

        self.fold = Fold(lambda: JointlyModulatedPair(attention()), num_inputs)

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.fold(inputs)

    def probe(self) -> dict[str, Tensor]:
        """``weights`` [B, N, h, w]; that of the last input is always 1."""
        return self.fold.weights()
