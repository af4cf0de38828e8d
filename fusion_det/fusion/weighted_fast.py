"""One learned number per input, normalised by their sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from fusion_det.fusion.operator import FusionOperator
from fusion_det.fusion.weighted_sum import weighted_sum


class _Shares(torch.autograd.Function):
    """``w_i / (eps + sum_j w_j)`` with ``w = relu(v)`` as one step of the graph: a BiFPN has 24 of them, and they are all overhead."""

    @staticmethod
    def forward(ctx: Any, numbers: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(numbers)
        ctx.eps = eps
        positive = numbers.relu()
        return positive / (positive.sum() + eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (numbers,) = ctx.saved_tensors
        positive = numbers.relu()
        total = positive.sum() + ctx.eps
        return (gradient - (gradient * positive).sum() / total) / total * (numbers > 0), None


class WeightedFast(FusionOperator):
    """``y = sum_i w_i x_i / (eps + sum_j w_j)`` with ``w = relu(v)``, the *fast normalised fusion* of BiFPN.

    Tan, Pang and Le, CVPR 2020, arXiv 1911.09070, Sec. 3.3; eps 1e-4 and v = 1 at the start. An input whose v falls below 0 is out for
    good: no gradient brings it back. ``edge_weights`` as in effdet. No deviation.
    """

    def __init__(self, channels: int, num_inputs: int, *, eps: PositiveFloat = 1e-4) -> None:
        super().__init__(channels, num_inputs)
        self.eps = eps
        self.edge_weights = nn.Parameter(torch.ones(num_inputs))

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        weights = _Shares.apply(self.edge_weights.float(), self.eps)
        if self.remembers:
            self.remember(weights=weights[None, :, None, None])
        return weighted_sum(inputs, weights)
