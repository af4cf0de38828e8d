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
        inputs = torch.stack(list(self.remembered.values()), dim=1)  # [B, N, C, H, W]
        winner = inputs.argmax(dim=1)  # [B, C, H, W]
        return {"weights": torch.stack([(winner == i).float().mean(dim=1) for i in range(self.num_inputs)], dim=1)}
