"""Selective kernel fusion."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt
from torch import Tensor, nn

from fusion_det.fusion.gates import PooledStatistics, by_input, gated_sum, init_mirrored, make_pooled_norm, remembered_weights
from fusion_det.fusion.operator import FusionOperator
from fusion_det.layers import NormKind, init_conv


class SK(FusionOperator):
    """``y = sum_i a_i x_i``, the a_i a softmax over the inputs per channel, from the global mean of their sum.

    Li, Wang, Hu and Yang, *Selective Kernel Networks*, CVPR 2019, arXiv 1903.06586, Eq. 1-6: ``z = relu(norm(W mean(sum_i x_i)))`` of
    ``max(C / reduction, minimum_width)`` channels, one linear map per input from z to its logits. With equal logits it is ``mean``.
    Works for any N without a fold. Deviations: the inputs are levels instead of kernels of different size; mirrored initial weights;
    BatchNorm of z by running statistics unless ``statistics=batch`` (:class:`RunningNorm` says why).
    """

    def __init__(
        self,
        channels: int,
        num_inputs: int,
        *,
        reduction: PositiveInt = 16,
        minimum_width: PositiveInt = 32,
        norm: NormKind = "bn",
        statistics: PooledStatistics = "running",
    ) -> None:
        super().__init__(channels, num_inputs)
        width = max(channels // reduction, minimum_width)
        squeeze = nn.Conv2d(channels, width, kernel_size=1, bias=norm == "none")
        init_mirrored(squeeze)
        self.squeeze = nn.Sequential(squeeze, make_pooled_norm(norm, width, statistics), nn.ReLU(inplace=True))
        self.select = nn.Conv2d(width, num_inputs * channels, kernel_size=1, bias=False)
        init_conv(self.select)

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        pooled = sum((x.mean((2, 3), keepdim=True) for x in inputs[1:]), start=inputs[0].mean((2, 3), keepdim=True))
        logits = self.select(self.squeeze(pooled)).unflatten(1, (self.num_inputs, self.channels))  # [B, N, C, 1, 1]
        weights = logits.float().softmax(dim=1).unbind(dim=1)
        self.remember(**by_input(weights))
        return gated_sum(inputs, weights)

    def probe(self) -> dict[str, Tensor]:
        """``weights`` [B, N, 1, 1]."""
        return remembered_weights(self.remembered)
