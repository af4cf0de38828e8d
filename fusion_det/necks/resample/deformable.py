"""Modulated deformable convolution by gathered rows, which on a CPU is many times faster than torchvision's loop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torchvision.ops import deform_conv2d


def modulated_deform_conv(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What ``torchvision.ops.deform_conv2d`` gives for a k x k window (odd) of stride 1, padded by k // 2, in x's type.

    x [B, C, H, W]; offset [B, 2 G k k, H, W], row and column of each tap of each group; mask [B, G k k, H, W]; weight [C_out, C, k, k].
    """
    if x.is_cuda:
        return deform_conv2d(x, offset, weight, bias, padding=weight.shape[-1] // 2, mask=mask)
    batch, channels, height, width = x.shape
    taps = weight.shape[-2] * weight.shape[-1]
    groups = mask.shape[1] // taps
    rows, columns = offset.permute(0, 2, 3, 1).reshape(batch, height, width, groups, taps, 2).unbind(-1)
    strength = mask.permute(0, 2, 3, 1).reshape(batch, height, width, groups, taps)
    base, weights = _corners(rows, columns, strength, weight.shape[-1])
    # one row per position and group, with a border of zeros that positions outside of the map read
    table = F.pad(x, (2, 2, 2, 2)).permute(0, 2, 3, 1).reshape(-1, channels // groups)
    shifts = [shift * groups for shift in (0, 1, width + 4, width + 5)]
    sampled = _sample(table, base, weights, shifts)  # [B H W G k k, C / G]
    kernel = weight.reshape(len(weight), groups, -1, taps).permute(1, 3, 2, 0).reshape(-1, len(weight))
    mixed = torch.addmm(bias, sampled.view(batch * height * width, -1), kernel)
    return mixed.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _corners(rows: Tensor, columns: Tensor, strength: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Offsets and mask [B, H, W, G, k k] -> of each tap the row of the table for its upper left pixel [P] and four weights [P, 4]."""
    batch, height, width, groups, taps = rows.shape
    device, tap = rows.device, torch.arange(taps, device=rows.device)
    y = rows + (torch.arange(height, device=device).view(-1, 1, 1, 1) + tap // window - window // 2)
    x = columns + (torch.arange(width, device=device).view(-1, 1, 1) + tap % window - window // 2)
    y, x = y.clamp(-2, height), x.clamp(-2, width)
    top, left = y.detach().floor().nan_to_num(0), x.detach().floor().nan_to_num(0)
    down, right = y - top, x - left
    lower = strength * down
    upper, lower_right = strength - lower, lower * right
    upper_right = upper * right
    weights = torch.stack([upper - upper_right, upper_right, lower - lower_right, lower_right], dim=-1)
    image = torch.arange(batch, device=device, dtype=torch.int32).view(-1, 1, 1, 1, 1)
    group = torch.arange(groups, device=device, dtype=torch.int32).view(-1, 1)
    base = ((image * (height + 4) + top.int() + 2) * (width + 4) + left.int() + 2) * groups + group
    return base.reshape(-1), weights.reshape(-1, 4)


def _sample(table: Tensor, base: Tensor, weights: Tensor, shifts: list[int]) -> Tensor:
    """``sum_c weights[p, c] * table[base[p] + shifts[c]]``, [P, D]."""
    index = base[:, None] + torch.tensor(shifts, dtype=base.dtype, device=base.device)
    rows = F.embedding_bag(index, table.detach(), per_sample_weights=weights, mode="sum")
    return _TableGradient.apply(rows, table, base, weights.detach(), shifts)


class _TableGradient(torch.autograd.Function):
    """The sampled rows as they are; gives the table its gradient, which embedding_bag computes several times slower."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, table: Tensor, base: Tensor, weights: Tensor, shifts: list[int]) -> Tensor:
        ctx.rows, ctx.shifts = len(table), shifts
        ctx.save_for_backward(base, weights)
        return rows.view_as(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.needs_input_grad[1]:
            return gradient, None, None, None, None
        base, weights = ctx.saved_tensors
        ordered, order = base.sort()
        starts = torch.searchsorted(ordered, torch.arange(ctx.rows, dtype=base.dtype, device=base.device))
        gradient = gradient.contiguous()
        total = gradient.new_zeros(ctx.rows, gradient.shape[1])
        for shift, weight in zip(ctx.shifts, weights[order].unbind(1), strict=True):
            part = F.embedding_bag(order, gradient, starts, per_sample_weights=weight.contiguous(), mode="sum")
            total[shift:] += part[: ctx.rows - shift]
        return gradient, total, None, None, None
