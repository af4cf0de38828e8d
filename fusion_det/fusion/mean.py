"""The element-wise mean."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fusion_det.fusion.operator import FusionOperator


class Mean(FusionOperator):
    """``y = (x_1 + ... + x_N) / N`` (Balanced FPN gathers its levels so: Pang et al., CVPR 2019, arXiv 1904.02701, Eq. 4).

    Addition whose scale does not grow with the number of inputs. No parameters, nothing decided.
    """

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        total = inputs[0]
        for other in inputs[1:]:
            total = total + other
        return total / self.num_inputs
