"""Concatenation along channels, reduced by a 1x1 convolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.fusion.operator import FusionOperator
from fusion_det.layers import init_conv


class Concat(FusionOperator):
    """``y = W [x_1; ...; x_N] + b`` with a 1x1 convolution back to C channels (HyperNet, ION and the PAN of YOLO join levels so).

    As ``W [x; y] = W_x x + W_y y``, this is addition after an own linear map per input: it can route channels where ``add`` cannot.
    Deviation: the papers keep N*C channels; here the map is reduced to C at once so that any operator fits any topology.
    """

    def __init__(self, channels: int, num_inputs: int, *, bias: bool = True) -> None:
        super().__init__(channels, num_inputs)
        self.reduce = nn.Conv2d(num_inputs * channels, channels, kernel_size=1, bias=bias)
        init_conv(self.reduce)

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.reduce(torch.cat(list(inputs), dim=1))

    def linear_parts(self) -> list[Callable[[Tensor], Tensor]]:
        """``W_i x`` for every input, whose sum is :meth:`fuse`; the bias is with the first.

        A 1x1 convolution commutes with interpolation, so a neck can apply them to maps [B, C, h, w] before it enlarges them: at half the
        size a quarter of the products.
        """
        weights = self.reduce.weight.split(self.channels, dim=1)
        biases = [self.reduce.bias] + [None] * (self.num_inputs - 1)
        return [partial(F.conv2d, weight=weight, bias=bias) for weight, bias in zip(weights, biases, strict=True)]
