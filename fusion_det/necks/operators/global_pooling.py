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

    def __init__(self, channels: int, num_inputs: int) -> None:
        super().__init__(channels, num_inputs)
        self._gate: Tensor | None = None

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        own, *others = inputs
        gate = own.mean((2, 3), keepdim=True).sigmoid()
        self._gate = gate.detach()
        return own + gate * torch.stack(others).sum(0) if len(others) > 1 else own + gate * others[0]

    def probe(self) -> dict[str, Tensor]:
        return {} if self._gate is None else {"gate": self._gate}
