"""Interpolation to a larger size."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def enlarge(x: Tensor, size: tuple[int, int], mode: Literal["nearest", "bilinear"]) -> Tensor:
    """[B, C, H, W] -> [B, C, *size]; bilinear with ``align_corners=False``."""
    return _DenseGradient.apply(F.interpolate(x, size=size, mode=mode, align_corners=None if mode == "nearest" else False))


class _DenseGradient(torch.autograd.Function):
    """The map as it is, its gradient laid out as the map.

    The gradient of a concatenated channels_last map is cut out of a wider one. torch's interpolation kernels on the CPU would reorder it
    to NCHW and go on so, seven times slower than after this copy.
    """

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        last = output.is_contiguous(memory_format=torch.channels_last) and not output.is_contiguous()
        ctx.layout = torch.channels_last if last else torch.contiguous_format

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous(memory_format=ctx.layout)
