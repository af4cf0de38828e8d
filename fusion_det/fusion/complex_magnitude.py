"""The length of a complex vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import PositiveFloat
from torch import Tensor

from fusion_det.fusion.operator import FusionOperator


def magnitude(parts: Sequence[Tensor], eps: float) -> Tensor:
    """``sqrt(sum_i parts[i]^2 + eps)`` in float32, given back in the parts' type; eps keeps the gradient at 0 finite."""
    total = parts[0].float().square()
    for part in parts[1:]:
        total = total + part.float().square()
    return torch.sqrt(total + eps).to(parts[0].dtype)


class ComplexMagnitude(FusionOperator):
    """``y = |x + i theta y| = sqrt(x^2 + (theta y)^2 + eps)``, the *parallel strategy* of feature fusion.

    Yang, Yang, Zhang and Lu, Pattern Recognition 36(6), 2003: one feature becomes the real, the other the imaginary part, theta balances
    them. Tutorials often call plain addition the parallel strategy; it is not: addition keeps x + y, this keeps both amplitudes and drops
    both signs. Deviations: the paper goes on in the complex space (PCA, LDA), here the modulus goes on; with N inputs
    ``sqrt(x_1^2 + sum_i (theta x_i)^2 + eps)``, which is the pairs' fold up to eps. No parameters, nothing decided.
    """

    def __init__(self, channels: int, num_inputs: int, *, theta: PositiveFloat = 1.0, eps: PositiveFloat = 1e-12) -> None:
        super().__init__(channels, num_inputs)
        self.theta, self.eps = theta, eps

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        own, *others = inputs
        return magnitude([own, *(self.theta * other for other in others)], self.eps)
