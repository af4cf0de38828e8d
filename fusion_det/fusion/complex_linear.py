"""A linear map of complex vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from fusion_det.fusion.complex_magnitude import magnitude
from fusion_det.fusion.fold import Fold
from fusion_det.fusion.operator import FusionOperator
from fusion_det.layers import init_conv

Output = Literal["concat", "real", "magnitude"]


class ComplexPair(nn.Module):
    """``(A + iB)(x + i theta y)`` with 1x1 convolutions A (``real``) and B (``imaginary``), brought back to C real channels."""

    def __init__(self, channels: int, theta: float, output: Output) -> None:
        super().__init__()
        self.theta, self.output = theta, output
        self.real = nn.Conv2d(channels, channels, kernel_size=1, bias=False)
        self.imaginary = nn.Conv2d(channels, channels, kernel_size=1, bias=False)
        self.join = nn.Conv2d(2 * channels, channels, kernel_size=1) if output == "concat" else None
        for conv in (self.real, self.imaginary):
            init_conv(conv)
            with torch.no_grad():  # each part sums two convolutions
                conv.weight /= math.sqrt(2)
        if self.join is not None:
            init_conv(self.join)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two maps [B, C, H, W] -> one."""
        y = self.theta * y
        real = self.real(x) - self.imaginary(y)
        if self.output == "real":
            return real
        imaginary = self.imaginary(x) + self.real(y)
        if self.join is None:
            return magnitude([real, imaginary], eps=1e-12)
        return self.join(torch.cat([real, imaginary], dim=1))


class ComplexLinear(FusionOperator):
    """``(A + iB)(x + i theta y) = (Ax - B theta y) + i(Bx + A theta y)``: the parallel strategy with a learned complex linear map.

    After Yang, Yang, Zhang and Lu, Pattern Recognition 36(6), 2003, whose map is PCA or LDA in the unitary space; here it is learned.
    ``output``: ``concat`` of both parts and a 1x1 convolution, the ``real`` part, or the ``magnitude``. A and B serve both inputs, which
    sets it apart from ``concat`` (a map per input). N inputs: folded pair by pair, :mod:`fusion_det.fusion.fold`. Nothing decided.
    """

    def __init__(self, channels: int, num_inputs: int, *, theta: PositiveFloat = 1.0, output: Output = "concat") -> None:
        super().__init__(channels, num_inputs)
        self.fold = Fold(lambda: ComplexPair(channels, theta, output), num_inputs)

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.fold(inputs)
