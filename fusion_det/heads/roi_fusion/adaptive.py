"""Every level, each by its own layer, the strongest response winning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import PositiveInt
from torch import Tensor, nn

from fusion_det.heads.roi_fusion.operators import make_operator, one_site, one_width
from fusion_det.heads.roi_levels import RoIPool
from fusion_det.layers import init_conv
from fusion_det.structures import FusionSite


class Adaptive(nn.Module):
    """PANet's adaptive feature pooling (Liu, Qi, Qin, Shi, Jia; CVPR 2018, arXiv 1803.01534, section 3.2).

    The box is pooled from every level, goes through one layer of each level's own with ReLU, and the results are joined by the operator
    (the paper: ``max`` or ``add``). ``layer``: ``linear``, the box head's first fully connected layer, which then has one less (the paper),
    or ``conv``, a 3x3 convolution. ``width``: what the layer gives.
    """

    def __init__(self, pool: RoIPool, *, fusion: Callable[..., Any], layer: Literal["linear", "conv"], width: PositiveInt) -> None:
        super().__init__()
        channels, count = one_width(pool.levels, owner="roi_fusion adaptive"), len(pool.levels)
        self.pool, self.linear_layers = pool, int(layer == "linear")
        # A fully connected layer is a convolution of the pooled map's size.
        size, padding = (pool.bins, 0) if self.linear_layers else (3, 1)
        self.operator: nn.Module | None = None
        self.bins = 1 if self.linear_layers else pool.bins
        self.layers = nn.ModuleList(nn.Conv2d(channels, width, size, padding=padding) for _ in range(count))
        for conv in self.layers:
            assert isinstance(conv, nn.Conv2d)
            init_conv(conv)
        self.out_channels: int = width
        if count > 1:
            self.operator, self.out_channels = make_operator(fusion, width, count)

    def forward(self, features: Sequence[Tensor], boxes: Tensor, index: Tensor) -> Tensor:
        """-> [B * R, width, bins, bins], of a single bin if the layer is ``linear``; ``index`` has no effect, every level is pooled."""
        places = zip(self.pool.chosen, self.pool.levels, self.layers, strict=True)
        maps = [layer(self.pool.single(features[i], boxes, level.stride)).relu() for i, level, layer in places]
        return self.operator(maps) if self.operator is not None else maps[0]

    def fusion_sites(self) -> list[FusionSite]:
        """Where the levels are joined."""
        return one_site("adaptive", self.pool.levels, [level.name for level in self.pool.levels], self.operator)
