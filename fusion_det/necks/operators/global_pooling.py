"""Global-pooling attention, the second merging cell of NAS-FPN."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusion_det.fusion.operator import FusionOperator


class GlobalPooling(FusionOperator):
    """``y = x_1 + sigmoid(mean(x_1)) * x_2``, the mean over positions (NAS-FPN: Ghiasi et al., CVPR 2019, arXiv 1904.07392, Fig. 5).

    Asymmetric: the first input gates the others. The code's ``gp(a, b)`` gates by its second argument, which is the first input here.
    More inputs are summed under the same gate, which the paper has no case of.
    """

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        own, *others = inputs
        gate = own.mean((2, 3), keepdim=True).sigmoid()
        self.remember(gate=gate)
        return own + gate * sum(others[1:], start=others[0])

    def probe(self) -> dict[str, Tensor]:
        """``gate`` [B, C, 1, 1] and ``weights`` [B, N, 1, 1]: 1 for the own map, the mean gate for each other one."""
        found = super().probe()
        if "gate" in found:
            mean = found["gate"].mean(1, keepdim=True)
            found["weights"] = torch.cat([torch.ones_like(mean), *[mean] * (self.num_inputs - 1)], dim=1)
        return found
