"""Interpolation to a larger size."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Mode = Literal["nearest", "bilinear"]


def enlarge(x: Tensor, size: tuple[int, int], mode: Mode) -> Tensor:
    """[B, C, H, W] -> [B, C, *size]; bilinear with ``align_corners=False``."""
    return _Enlarge.apply(x, tuple(size), mode) if x.device.type == "cpu" else _interpolate(x, size, mode)


def _interpolate(x: Tensor, size: tuple[int, int], mode: Mode) -> Tensor:
    return F.interpolate(x, size=size, mode=mode, align_corners=None if mode == "nearest" else False)


class _Enlarge(torch.autograd.Function):
    """Interpolation that lays its gradient out as its result; for the CPU only (in deterministic mode GPUs go another way).

    The gradient of a concatenated channels_last map is cut out of a wider one. torch's kernels on the CPU would reorder it to NCHW and
    go on so, seven times slower than after this copy.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: tuple[int, int], mode: Mode) -> Tensor:
        output = _interpolate(x, size, mode)
        ctx.size, ctx.mode, ctx.shape = size, mode, x.shape
        last = output.is_contiguous(memory_format=torch.channels_last) and not output.is_contiguous()
        ctx.layout = torch.channels_last if last else torch.contiguous_format
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradient.contiguous(memory_format=ctx.layout)
        if ctx.mode == "nearest":
            return torch.ops.aten.upsample_nearest2d_backward(gradient, ctx.size, ctx.shape), None, None
        return torch.ops.aten.upsample_bilinear2d_backward(gradient, ctx.size, ctx.shape, False), None, None
