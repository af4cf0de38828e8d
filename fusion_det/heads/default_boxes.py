"""SSD's default boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fusion_det.heads.anchors import AnchorGrid, Shape, repeat_cell
from fusion_det.structures import LevelSpec

Clip = Literal["none", "size", "corners"]
"""none: the official training. size: width and height at most the picture's (torchvision). corners: boxes cut at the picture's border (the
official code's ``clip: true``)."""


class DefaultBoxes(AnchorGrid):
    """Default boxes around the centres of all cells (Liu et al., ECCV 2016, arXiv 1512.02325, section 2.2, in the official code's pixels).

    Per cell, in this order: a square of side ``min``, a square of side ``sqrt(min * max)``, then for each ratio r the boxes of
    ``min sqrt(r)`` x ``min / sqrt(r)`` (width x height) and the other way round. ``None`` derives a list from the strides: ``min`` is
    ``scale`` strides, ``max`` the next level's ``min`` (the last: twice its own), ``steps`` the strides. ``aspect_ratios``: one list per
    level, or one for all. Centres lie at (i + 0.5) ``step``, not at (i + 0.5) / map size as in the paper's text (8 x 38 is not 300).

    Places and sizes are shares of ``picture_size`` until the end, so that the boxes are torchvision's to the last bit: a small object
    inside two boxes overlaps both equally, and that bit decides which of them learns it.
    """

    def __init__(
        self,
        levels: Sequence[LevelSpec],
        *,
        min_sizes: Sequence[float] | None,
        max_sizes: Sequence[float] | None,
        steps: Sequence[float] | None,
        aspect_ratios: Sequence[Sequence[float]],
        scale: float,
        clip: Clip,
        picture_size: float,
    ) -> None:
        strides = [level.stride for level in levels]
        small = list(min_sizes) if min_sizes is not None else [scale * stride for stride in strides]
        large = list(max_sizes) if max_sizes is not None else [*small[1:], 2 * small[-1]]
        steps = list(steps) if steps is not None else [float(stride) for stride in strides]
        ratios = list(aspect_ratios) * len(levels) if len(aspect_ratios) == 1 else list(aspect_ratios)
        _check(levels, min_sizes=small, max_sizes=large, steps=steps, aspect_ratios=ratios)
        limit = 1.0 if clip == "size" else math.inf
        settings = zip(small, large, ratios, strict=True)
        super().__init__([_cells(a / picture_size, b / picture_size, r, limit) for a, b, r in settings], steps, offset=0.5)
        self.clip, self.picture_size = clip, float(picture_size)

    def place(self, level: int, shapes: Sequence[Shape]) -> Tensor:
        """Boxes [A_i, 4] of one level in pixels."""
        cell: Tensor = getattr(self, f"cell_{level}")
        y, x = (torch.arange(size, device=cell.device, dtype=torch.float32) + self.offset for size in shapes[level])
        cells_across = self.picture_size / self.strides[level]
        boxes = repeat_cell(y / cells_across, x / cells_across, cell) * self.picture_size
        return boxes.clamp(min=0, max=self.picture_size) if self.clip == "corners" else boxes


def _check(levels: Sequence[LevelSpec], **lists: Sequence[object]) -> None:
    names = [level.name for level in levels]
    for key, values in lists.items():
        if len(values) != len(levels):
            raise ValueError(
                f"head ssd: expected one entry of {key} for each of the {len(levels)} levels {names}, got {len(values)}; "
                "null derives them from the strides, as head=ssd_small does"
            )
    for level, small, large, step in zip(levels, lists["min_sizes"], lists["max_sizes"], lists["steps"], strict=True):
        if not 0 < small < large:  # type: ignore[operator]
            raise ValueError(f"head ssd: expected 0 < min size < max size on {level.name}, got {small} and {large}")
        if not level.stride / 2 <= step <= level.stride * 2:  # type: ignore[operator]
            raise ValueError(f"head ssd: step {step} of {level.name} does not go with the level's stride {level.stride}")


def _cells(small: float, large: float, ratios: Sequence[float], limit: float) -> list[list[float]]:
    middle = math.sqrt(small * large)
    sizes = [(small, small), (middle, middle)]
    for ratio in ratios:
        wide = (small * math.sqrt(ratio), small / math.sqrt(ratio))
        sizes += [wide, (wide[1], wide[0])]
    halves = [(min(width, limit) / 2, min(height, limit) / 2) for width, height in sizes]
    return [[-w, -h, w, h] for w, h in halves]
