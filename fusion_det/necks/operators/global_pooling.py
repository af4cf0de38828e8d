"""Global-pooling attention, the second merging cell of NAS-FPN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fusion_det.fusion.operator import FusionOperator


class GlobalPooling(FusionOperator):
    """``y = x_1 + sigmoid(mean(x_1)) * x_2``, the mean over positions (NAS-FPN: Ghiasi et al., CVPR 2019, arXiv 1904.07392, Fig. 5).

    Asymmetric: the first input gates the others, as in mmcv, whose ``gp(a, b)`` gates by its second argument, the first input here.
    The authors' TensorFlow code gates by the coarser map of the two, which is the last input here (``gate=last``), through the greatest
    value of each channel (``pooled=max``). More inputs are summed under the same gate, which the paper has no case of.
    """

    def __init__(
        self, channels: int, num_inputs: int, *, gate: Literal["first", "last"] = "first", pooled: Literal["mean", "max"] = "mean"
    ) -> None:
        super().__init__(channels, num_inputs)
        self.gate, self.pooled = gate, pooled

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        own, *others = inputs if self.gate == "first" else reversed(inputs)
        summary = own.mean((2, 3), keepdim=True) if self.pooled == "mean" else own.amax((2, 3), keepdim=True)
        gate = summary.sigmoid()
        self.remember(gate=gate)
        return own + gate * sum(others[1:], start=others[0])

    def probe(self) -> dict[str, Tensor]:
        """``gate`` [B, C, 1, 1] and ``weights`` [B, N, 1, 1]: 1 for the map that gates, the mean gate for each other one."""
        found = super().probe()
        if "gate" in found:
            mean = found["gate"].mean(1, keepdim=True)
            weights = [torch.ones_like(mean), *[mean] * (self.num_inputs - 1)]
            found["weights"] = torch.cat(weights if self.gate == "first" else weights[::-1], dim=1)
        return found
