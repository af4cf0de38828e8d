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
        best, *others = self.remembered.values()
        winner = torch.zeros_like(best, dtype=torch.uint8)  # [B, C, H, W]
        for i, other in enumerate(others, start=1):
            winner = winner.masked_fill(other > best, i)
            best = torch.maximum(best, other)
        shares = [(winner == i).mean(dim=1, dtype=torch.float32) for i in range(self.num_inputs)]
        return {"weights": torch.stack(shares, dim=1)}
