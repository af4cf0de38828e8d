"""Iterative attentional feature fusion."""

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


class IterativePair(GatedPair):
    """``u = w1 x + (1 - w1) y`` with ``w1 = M1(x + y)``, then ``z = w2 x + (1 - w2) y`` with ``w2 = M2(u)``.

    Where ``second`` has no global branch, it uses the first one's.
    """

    def __init__(self, first: MultiScaleAttention, second: MultiScaleAttention) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two maps [B, C, H, W] -> one."""
        integrated = blend(x, y, self.first(x + y))
        gate = self.second(integrated, self.first.global_att)
        self.keep(gate)
        return blend(x, y, gate)

    def factors(self, gate: Tensor) -> tuple[Tensor, Tensor]:
        return gate, 1 - gate


class IAFF(FusionOperator):
    """``z = M2(u) x + (1 - M2(u)) y`` with ``u`` an AFF of x and y by M1: the sum that AFF looks at is itself replaced by a soft choice.

    Dai, Gieseke, Oehmcke, Wu and Barnard, WACV 2021, arXiv 2009.14082, Eq. 5. Decided:

    - No factor 2, in either pass: neither the paper nor the authors' codes have it in iAFF. An undecided gate gives the mean.
    - The second pass has its own local and global branch, as in the paper and the MXNet code. The PyTorch code calls the first pass's
      ``global_att`` again and leaves ``global_att2`` without use: ``reuse_global=true`` does so, and has no second global branch.
    - x is the own level. N inputs: folded pair by pair, :mod:`fusion_det.fusion.fold`; ``fold.pairs.i.first`` holds the authors'
      ``local_att`` and ``global_att``, ``second`` their ``local_att2`` and ``global_att2``.

    Deviations: at least ``minimum_width`` hidden channels (1 for the authors' widths); mirrored initial weights; see
    :class:`MultiScaleAttention` on ``statistics`` (``batch`` for the authors' training).
    """

    def __init__(
        self,
        channels: int,
        num_inputs: int,
        *,
        reduction: PositiveInt = 4,
        minimum_width: PositiveInt = 4,
        reuse_global: bool = False,
        norm: NormKind = "bn",
        statistics: PooledStatistics = "running",
    ) -> None:
        super().__init__(channels, num_inputs)
        hidden = bottleneck_width(channels, reduction, minimum_width)

        def attention(*, pooled: bool = True) -> MultiScaleAttention:
            return MultiScaleAttention(channels, hidden, norm, statistics, pooled=pooled)

        self.fold = Fold(lambda: IterativePair(attention(), attention(pooled=not reuse_global)), num_inputs)

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.fold(inputs)

    def probe(self) -> dict[str, Tensor]:
        """``weights`` [B, N, H, W] of the second pass; they sum to 1."""
        return self.fold.weights()
