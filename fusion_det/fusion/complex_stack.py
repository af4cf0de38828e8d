"""A complex map, kept until the next convolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fusion_det.fusion.operator import FusionOperator
from fusion_det.layers import init_conv


class ComplexStack(FusionOperator):
    """``z = P x + i Q y`` handed on as a complex map: C/2 complex channels are C real ones, real parts first, imaginary parts after.

    The parallel strategy (Yang, Yang, Zhang and Lu, Pattern Recognition 36(6), 2003) without choosing what to keep: the next convolution
    (the neck's block, the head's first one) sees both parts. P and Q are 1x1 convolutions C -> C/2, as the contract fixes C; Q takes
    up the paper's theta. A real layout, not ``torch.complex``, as bf16 has no complex type. N inputs: the own level is the real
    part, all others together the imaginary one (a fold would halve the own level's share at each pair). Nothing decided.
    """

    def __init__(self, channels: int, num_inputs: int, *, bias: bool = True) -> None:
        super().__init__(channels, num_inputs)
        if channels % 2:
            raise ValueError(f"ComplexStack: {channels} channels cannot be split into 2 parts; use an even neck width")
        self.real = nn.Conv2d(channels, channels // 2, kernel_size=1, bias=bias)
        self.imaginary = nn.Conv2d((num_inputs - 1) * channels, channels // 2, kernel_size=1, bias=bias)
        init_conv(self.real)
        init_conv(self.imaginary)

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        own, *others = inputs
        return torch.cat([self.real(own), self.imaginary(torch.cat(others, dim=1))], dim=1)
