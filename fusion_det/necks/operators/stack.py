"""Concatenation without a reduction of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fusion_det.fusion.operator import FusionOperator


class Stack(FusionOperator):
    """``y = [x_1; ...; x_N]``, N * C channels (HyperNet, YOLO's PAN, RT-DETR's CCFM).

    The block that follows takes the map back to the node's width, as in those papers; where there is no block, a 1x1 convolution does, and
    this is then the operator ``concat``. For nodes of a neck only: on RoI maps, which no block follows, use ``concat``.
    ``own``: where the node's own level stands. ``last`` is the order of YOLOX and RT-DETR, so that their weights fit.
    """

    def __init__(self, channels: int, num_inputs: int, *, own: Literal["first", "last"] = "first") -> None:
        super().__init__(channels, num_inputs)
        self.out_channels, self.own = channels * num_inputs, own

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(inputs) if self.own == "first" else [*inputs[1:], inputs[0]], dim=1)
