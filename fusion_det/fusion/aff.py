"""Attentional feature fusion."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt
from torch import Tensor

from fusion_det.fusion.blend import blend
from fusion_det.fusion.fold import Fold, GatedPair
from fusion_det.fusion.gates import PooledStatistics, bottleneck_width
from fusion_det.fusion.ms_cam import MultiScaleAttention
from fusion_det.fusion.operator import FusionOperator
from fusion_det.layers import NormKind


class AttentionalPair(GatedPair):
    """``z = f (w x + (1 - w) y)``, ``w = M(x + y)``, f = 2 or 1."""

    def __init__(self, attention: MultiScaleAttention, factor: float) -> None:
        super().__init__()
        self.attention, self.factor = attention, factor

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two maps [B, C, H, W] -> one."""
        gate = self.attention(x + y)
        self.keep(gate)
        chosen = blend(x, y, gate)
        return chosen if self.factor == 1 else chosen.mul_(self.factor)

    def factors(self, gate: Tensor) -> tuple[Tensor, Tensor]:
        return self.factor * gate, self.factor * (1 - gate)


class AFF(FusionOperator):
    """``z = 2 (M(x + y) x + (1 - M(x + y)) y)``: a soft choice per element between two maps, from their sum.

    Dai, Gieseke, Oehmcke, Wu and Barnard, WACV 2021, arXiv 2009.14082, Eq. 4; M is MS-CAM. Decided:

    - The factor 2 is in both of the authors' codes, not in Eq. 4. With it an undecided gate (1/2) is plain addition, so AFF can replace
      ``add`` without changing the scale: on by default, ``factor_two=false`` gives the equation.
    - x is the own level, as in the paper (low level, identity); the authors' ResNet code calls it with the order swapped.
    - N inputs: folded pair by pair, :mod:`fusion_det.fusion.fold`; ``fold.pairs.i.attention`` holds the layers of the authors' ``AFF``.

    Deviations: at least ``minimum_width`` hidden channels (1 for the authors' widths); mirrored initial weights; see
    :class:`MultiScaleAttention` on ``statistics`` (``batch`` for the authors' training).
    The paper takes reduction 4 on CIFAR and FPN, 16 on ImageNet.
    """

    def __init__(
        self,
        channels: int,
        num_inputs: int,
        *,
        reduction: PositiveInt = 4,
        minimum_width: PositiveInt = 4,
        factor_two: bool = True,
        norm: NormKind = "bn",
        statistics: PooledStatistics = "running",
    ) -> None:
        super().__init__(channels, num_inputs)
        factor, hidden = 2.0 if factor_two else 1.0, bottleneck_width(channels, reduction, minimum_width)
        self.fold = Fold(lambda: AttentionalPair(MultiScaleAttention(channels, hidden, norm, statistics), factor), num_inputs)

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.fold(inputs)

    def probe(self) -> dict[str, Tensor]:
        """``weights`` [B, N, H, W]; they sum to f for two inputs."""
        return self.fold.weights()
