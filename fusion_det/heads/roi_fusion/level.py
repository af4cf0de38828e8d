"""One level per box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import PositiveInt
from torch import Tensor, nn

from fusion_det.heads.roi_fusion.operators import make_operator, one_site, one_width
from fusion_det.heads.roi_levels import RoIPool
from fusion_det.structures import FusionSite


class Level(nn.Module):
    """Each box from the level of its size (Lin et al., CVPR 2017, arXiv 1612.03144, section 4.2).

    ``span`` over 1 pools the next coarser levels too (the coarsest again, where there are no more) and joins them by the operator, the
    box's own level first; with 1, as in the paper, there is nothing to join and the operator has no effect.
    """

    linear_layers = 0

    def __init__(self, pool: RoIPool, *, fusion: Callable[..., Any], span: PositiveInt) -> None:
        super().__init__()
        if span > len(pool.levels):
            raise ValueError(f"roi_fusion level: span {span} is more than the {len(pool.levels)} levels that boxes are pooled from")
        self.pool, self.span, self.bins = pool, span, pool.bins
        self.out_channels = one_width(pool.levels, owner="roi_fusion level")
        self.operator: nn.Module | None = None
        if span > 1:
            self.operator, self.out_channels = make_operator(fusion, self.out_channels, span)

    def forward(self, features: Sequence[Tensor], boxes: Tensor, index: Tensor) -> Tensor:
        """-> [B * R, C, bins, bins]."""
        last = len(self.pool.levels) - 1
        maps = [self.pool(features, boxes, (index + i).clamp(max=last)) for i in range(self.span)]
        return self.operator(maps) if self.operator is not None else maps[0]

    def fusion_sites(self) -> list[FusionSite]:
        """Where the box's level and the next coarser ones are joined."""
        return one_site("level", self.pool.levels, ["own", *(f"coarser{i}" for i in range(1, self.span))], self.operator)
