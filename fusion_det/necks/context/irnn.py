"""Context by recurrent sweeps over the map."""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from fusion_det.layers import init_conv


class IRNN(nn.Module):
    """Four-directional recurrent context of the Inside-Outside Net (Bell et al., CVPR 2016, arXiv 1512.04143, Fig. 3).

    1x1 convolution; then, ``rounds`` times, sweeps in four directions, concatenated and joined by a 1x1 convolution, with ReLU after the
    last. A sweep is ``h_j = relu(h_{j-1} + x_j)``: the paper found the recurrent matrix needless and leaves it at identity. After one round
    each position knows its row and column, after two the whole map. Deviation: the learned recurrent matrix is not offered.
    """

    def __init__(self, channels: int, *, rounds: PositiveInt = 2) -> None:
        super().__init__()
        self.input = nn.Conv2d(channels, channels, kernel_size=1)
        self.joins = nn.ModuleList(nn.Conv2d(4 * channels, channels, kernel_size=1) for _ in range(rounds))
        for conv in (self.input, *self.joins):
            assert isinstance(conv, nn.Conv2d)
            init_conv(conv)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W], not negative."""
        x = self.input(x)
        for join in self.joins:
            x = join(torch.cat(four_sweeps(x), dim=1))
        return x.relu()


def four_sweeps(x: Tensor) -> list[Tensor]:
    """Sweeps to the right, left, down and up over [B, C, H, W]."""
    return [sweep(x, -1), sweep(x.flip(-1), -1).flip(-1), sweep(x, -2), sweep(x.flip(-2), -2).flip(-2)]


def sweep(x: Tensor, dim: int) -> Tensor:
    """``h_j = max(0, h_{j-1} + x_j)`` along ``dim``, started at 0, without a loop.

    With S the running sum of x this is ``S_j - min(0, S_1, ..., S_j)`` (Lindley's recursion). Running sums want fp32.
    """
    total = x.float().cumsum(dim)
    lowest = total.cummin(dim).values.clamp(max=0)
    return (total - lowest).to(x.dtype)
