"""Element-wise addition."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fusion_det.fusion.operator import FusionOperator


class Add(FusionOperator):
    """``y = x_1 + ... + x_N`` (FPN: Lin et al., CVPR 2017, arXiv 1612.03144, Fig. 3). No parameters, nothing decided."""

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        total = inputs[0]
        for other in inputs[1:]:
            total = total + other
        return total
