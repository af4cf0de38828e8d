"""One learned number per input, normalised by softmax."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fusion_det.fusion.operator import FusionOperator
from fusion_det.fusion.weighted_sum import weighted_sum


class WeightedSoftmax(FusionOperator):
    """``y = sum_i softmax(v)_i x_i``, the *softmax-based fusion* that BiFPN measures its fast form against.

    Tan, Pang and Le, CVPR 2020, arXiv 1911.09070, Sec. 3.3; v starts equal, so the mean at first. ``edge_weights`` as in effdet.
    No deviation.
    """

    def __init__(self, channels: int, num_inputs: int) -> None:
        super().__init__(channels, num_inputs)
        self.edge_weights = nn.Parameter(torch.ones(num_inputs))

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        weights = self.edge_weights.float().softmax(dim=0)
        self.remember(weights=weights[None, :, None, None])
        return weighted_sum(inputs, weights)
