"""Concatenation without a reduction of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fusion_det.fusion.operator import FusionOperator


class Stack(FusionOperator):
    """``y = [x_1; ...; x_N]``, N * C channels (HyperNet, YOLO's PAN, RT-DETR's CCFM).

    The block that follows takes the map back to the node's width, as in those papers; where there is no block, a 1x1 convolution does, and
    this is then the operator ``concat``. For nodes of a neck only: on RoI maps, which no block follows, use ``concat``.
    """

    def __init__(self, channels: int, num_inputs: int) -> None:
        super().__init__(channels, num_inputs)
        self.out_channels = channels * num_inputs

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(inputs), dim=1)
