"""Context by recurrent sweeps over the map."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fusion_det.layers import init_conv


class IRNN(nn.Module):
    """Four-directional recurrent context of the Inside-Outside Net (Bell et al., CVPR 2016, arXiv 1512.04143, Fig. 3).

    1x1 convolution; then, ``rounds`` times, sweeps in four directions, concatenated and joined by a 1x1 convolution, with ReLU after the
    last. A sweep is ``h_j = relu(h_{j-1} + x_j)``: the paper found the recurrent matrix needless and leaves it at identity. After one round
    each position knows its row and column, after two the whole map. ``recurrence="learned"`` has a matrix per direction and round,
    started at identity: ``h_j = relu(W h_{j-1} + x_j)``, a step per row or column. ``hidden``: channels of the sweeps; ``None``: as the
    map.
    """

    def __init__(
        self,
        channels: int,
        *,
        rounds: PositiveInt = 2,
        hidden: PositiveInt | None = None,
        recurrence: Literal["identity", "learned"] = "identity",
    ) -> None:
        super().__init__()
        hidden = hidden or channels
        self.input = nn.Conv2d(channels, hidden, kernel_size=1)
        widths = [hidden] * (rounds - 1) + [channels]
        self.joins = nn.ModuleList(nn.Conv2d(4 * hidden, width, kernel_size=1) for width in widths)
        for conv in (self.input, *self.joins):
            assert isinstance(conv, nn.Conv2d)
            init_conv(conv)
        matrices = rounds if recurrence == "learned" else 0
        self.matrices = nn.ParameterList(torch.eye(hidden).repeat(4, 1, 1) for _ in range(matrices))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W], not negative."""
        x = self.input(x)
        for i, join in enumerate(self.joins):
            x = join(torch.cat(four_sweeps(x, self.matrices[i] if len(self.matrices) else None), dim=1))
        return x.relu()


def four_sweeps(x: Tensor, matrices: Tensor | None = None) -> list[Tensor]:
    """Sweeps to the right, left, down and up over [B, C, H, W]; ``matrices`` [4, C, C] in this order, ``None``: identity."""
    if matrices is None:
        right, left = sweep(torch.cat([x, x.flip(-1)]), -1).chunk(2)
        down, up = sweep(torch.cat([x, x.flip(-2)]), -2).chunk(2)
        return [right, left.flip(-1), down, up.flip(-2)]
    right, left, down, up = matrices
    return [
        learned_sweep(x, -1, right),
        learned_sweep(x.flip(-1), -1, left).flip(-1),
        learned_sweep(x, -2, down),
        learned_sweep(x.flip(-2), -2, up).flip(-2),
    ]


def learned_sweep(x: Tensor, dim: int, matrix: Tensor) -> Tensor:
    """``h_j = max(0, W h_{j-1} + x_j)`` along ``dim`` of [B, C, H, W], started at 0."""
    lines = x.unbind(dim)  # [B, C, L] each
    state = lines[0].relu()
    found = [state]
    for line in lines[1:]:
        state = (matrix @ state + line).relu()
        found.append(state)
    return torch.stack(found, dim=dim)


def sweep(x: Tensor, dim: int) -> Tensor:
    """``h_j = max(0, h_{j-1} + x_j)`` along ``dim``, started at 0; the sums are float32."""
    return _Sweep.apply(x.float().movedim(dim, 0)).movedim(0, dim).to(x.dtype)


class _Sweep(torch.autograd.Function):
    """The sweep along the first dimension, two small steps in place per row; by running sums and minima it takes five times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        found = x.clone()
        rows = found.unbind()
        rows[0].relu_()
        for before, row in pairwise(rows):
            row.add_(before).relu_()
        ctx.save_for_backward(found)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (found,) = ctx.saved_tensors
        alive = (found > 0).to(gradient.dtype)
        total = alive * gradient
        rows, passes = total.unbind(), alive.unbind()
        for j in range(len(rows) - 2, -1, -1):
            rows[j].addcmul_(rows[j + 1], passes[j])
        return total
