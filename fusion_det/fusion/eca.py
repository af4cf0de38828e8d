"""An efficient channel attention gate per input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from fusion_det.fusion.gates import by_input, gated_sum, remembered_weights
from fusion_det.fusion.operator import FusionOperator


def adaptive_kernel(channels: int) -> int:
    """The paper's kernel size, ``|log2(C) / 2 + 1 / 2|`` to the next odd number (Eq. 12): 5 at 256 channels."""
    size = int(abs((math.log2(channels) + 1) / 2))
    return size if size % 2 else size + 1


class ECA(FusionOperator):
    """``y = sum_i s_i x_i``, ``s_i = sigmoid(conv1d_k(mean(x_i)))``: a gate per channel from its k neighbours in channel order.

    Wang, Wu, Zhu, Li, Zuo and Hu, CVPR 2020, arXiv 1910.03151, Eq. 9 and 12; k weights per input, no bias. ``kernel=null`` takes the
    formula; the authors' ResNets fix k per stage. Deviation: the paper gates one map, here every input has a gate of its own.
    """

    def __init__(self, channels: int, num_inputs: int, *, kernel: PositiveInt | None = None) -> None:
        super().__init__(channels, num_inputs)
        size = adaptive_kernel(channels) if kernel is None else kernel
        if size % 2 == 0:
            raise ValueError(f"ECA: expected an odd kernel, got {size}; an even one has no centre")
        self.convs = nn.ModuleList(nn.Conv1d(1, 1, size, padding=size // 2, bias=False) for _ in range(num_inputs))

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        gates = [self._gate(conv, x) for conv, x in zip(self.convs, inputs, strict=True)]
        self.remember(**by_input(gates))
        return gated_sum(inputs, gates)

    def _gate(self, conv: nn.Module, x: Tensor) -> Tensor:
        pooled = x.mean(dim=(2, 3))[:, None]  # [B, 1, C]
        return torch.sigmoid(conv(pooled))[:, 0, :, None, None]  # [B, C, 1, 1]

    def probe(self) -> dict[str, Tensor]:
        """``weights`` [B, N, 1, 1]."""
        return remembered_weights(self.remembered)
