"""Which levels boxes are pooled from, and from which of them each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fusion_det.heads.roi_align import roi_align
from fusion_det.structures import LevelSpec

# Levels of a larger stride are for proposals only, unless named (FPN: P6).
COARSEST = 32
# Against rounding in the logarithm (torchvision's).
ROUNDING = 1e-6


def choose_levels(levels: Sequence[LevelSpec], names: Sequence[str] | None, *, owner: str) -> list[int]:
    """Positions of the levels called ``names``, fine to coarse (``None``: all); a ``ValueError`` for names that there are not."""
    known = [level.name for level in levels]
    if names is None:
        return list(range(len(levels)))
    if not names or not set(names) <= set(known):
        raise ValueError(f"{owner}: expected names of the levels {', '.join(known)}, got {list(names)}; null takes the usual ones")
    return [i for i, name in enumerate(known) if name in names]


class RoIPool(nn.Module):
    """RoIAlign from the level that fits a box's size (Lin et al., *Feature Pyramid Networks*, CVPR 2017, arXiv 1612.03144, equation 1).

    A box of area w h goes to the level of stride ``2^floor(log2(canonical_stride) + log2(sqrt(w h) / canonical_size))``, or the nearest;
    of levels that share a stride, to the first (torchvision's).
    ``levels_used``: names of the levels to pool from; ``None``: those up to stride 32. ``bins`` per side, ``samples`` per side of a bin
    (0: one per pixel), ``aligned``: see :func:`fusion_det.heads.roi_align.roi_align`.
    """

    places: Tensor

    def __init__(
        self,
        levels: Sequence[LevelSpec],
        *,
        levels_used: list[str] | None,
        bins: PositiveInt,
        samples: NonNegativeInt,
        aligned: bool,
        canonical_size: PositiveFloat,
        canonical_stride: PositiveFloat,
    ) -> None:
        super().__init__()
        if levels_used is None:
            levels_used = [level.name for level in levels if level.stride <= COARSEST] or [levels[0].name]
        self.chosen = choose_levels(levels, levels_used, owner="pool.levels_used")
        self.levels = tuple(levels[i] for i in self.chosen)
        self.bins, self.samples, self.aligned = bins, samples, aligned
        self.canonical_size, self.canonical_stride = canonical_size, canonical_stride
        self.register_buffer("places", torch.tensor(self.chosen), persistent=False)

    def assign(self, boxes: Tensor) -> Tensor:
        """Index int64 [B, R] into ``self.levels`` of each box [B, R, 4]."""
        size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1).sqrt()
        exponent = (math.log2(self.canonical_stride) + torch.log2(size / self.canonical_size) + ROUNDING).floor()
        index = torch.zeros(size.shape, dtype=torch.int64, device=size.device)
        for place, (finer, level) in enumerate(pairwise(self.levels), start=1):
            if level.stride > finer.stride:
                index = torch.where(exponent >= math.log2(level.stride), place, index)
        return index

    def forward(self, features: Sequence[Tensor], boxes: Tensor, index: Tensor) -> Tensor:
        """Maps of all the head's levels, boxes [B, R, 4] and the index of each one's level [B, R] -> [B * R, C, bins, bins]."""
        return self._pool([features[i] for i in self.chosen], boxes, index, [level.stride for level in self.levels])

    def single(self, feature: Tensor, boxes: Tensor, stride: int) -> Tensor:
        """One map [B, C, H, W] for all boxes [B, R, 4] -> [B * R, C, bins, bins]."""
        index = torch.zeros(boxes.shape[:2], dtype=torch.int64, device=boxes.device)
        return self._pool([feature], boxes, index, [stride])

    def _pool(self, features: Sequence[Tensor], boxes: Tensor, index: Tensor, strides: Sequence[int]) -> Tensor:
        return roi_align(features, boxes, index, strides=strides, bins=self.bins, samples=self.samples, aligned=self.aligned)
