"""The element-wise maximum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusion_det.fusion.gates import by_input
from fusion_det.fusion.operator import FusionOperator


class Max(FusionOperator):
    """``y = max(x_1, ..., x_N)`` per element (PANet fuses the levels of a RoI so: Liu et al., CVPR 2018, arXiv 1803.01534, Sec. 3.2).

    A hard choice per channel and position without parameters; where inputs are equal they share the gradient.
    """

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        best = inputs[0]
        for other in inputs[1:]:
            best = torch.maximum(best, other)
        self.remember(**by_input(inputs))
        return best

    def probe(self) -> dict[str, Tensor]:
        """``weights`` [B, N, H, W]: the share of channels in which each input won (the first of equal ones)."""
        if not self.remembered:
            return {}
        inputs = list(self.remembered.values())
        best, wins = inputs[0], list[Tensor]()
        for i, other in enumerate(inputs[1:]):
            best = torch.maximum(best, inputs[i]) if i else best
            better = other > best  # [B, C, H, W]
            wins = [*(won & ~better for won in wins), better]
        others = torch.stack([torch.count_nonzero(won, dim=1) for won in wins], dim=1) / self.channels
        return {"weights": torch.cat([1 - others.sum(1, keepdim=True), others], dim=1)}
