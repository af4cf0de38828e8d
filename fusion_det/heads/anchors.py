"""Boxes of fixed shapes, repeated over the cells of each level's map.

The same grid serves RetinaNet, region proposals (one size per level), GFL (one square) and SSD's default boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fusion_det.heads.points import CellStride, cell_steps

Shape = tuple[int, int]
"""Height and width of a map."""

# Grids are kept for so many sets of map shapes; pictures come in a few bucket shapes.
CACHE_SIZE = 32


class Anchors(NamedTuple):
    """Anchors of all levels, level after level, cell after cell row by row; within a cell in the order of its shapes."""

    boxes: Tensor
    """float32 [A, 4] xyxy in the network frame; they may reach beyond the picture."""
    levels: Tensor
    """int64 [A]: index of the level."""
    counts: tuple[int, ...]
    """Anchors per level; their sum is A."""


class AnchorGrid(nn.Module):
    """Repeats ``cells[i]``, the boxes around a cell's centre (xyxy relative to it, in pixels), over the map of level i.

    ``strides``: distance of two cells per level, in pixels; ``offset``: the centre's place in its cell, in strides. Grids are cached per
    map shapes and device: a step without a new shape launches nothing and never makes the host wait. ``regressed``: boxes are predicted
    relative to the anchors, so that these should resemble objects; False where they only mark places and scales.
    """

    def __init__(
        self,
        cells: Sequence[Sequence[Sequence[float]]],
        strides: Sequence[float],
        *,
        offset: float,
        cell_stride: CellStride = "level",
        regressed: bool = True,
    ) -> None:
        super().__init__()
        if len(cells) != len(strides):
            raise ValueError(f"anchors: expected shapes for {len(strides)} levels, got them for {len(cells)}")
        self.strides, self.offset, self.cell_stride, self.regressed = tuple(strides), offset, cell_stride, regressed
        self.per_cell = [len(level) for level in cells]
        for i, level in enumerate(cells):
            self.register_buffer(f"cell_{i}", torch.tensor(level, dtype=torch.float32), persistent=False)
        self.cache: dict[tuple[object, ...], Anchors] = {}

    def forward(self, shapes: Sequence[Shape]) -> Anchors:
        """Anchors for maps of these heights and widths, one per level."""
        if len(shapes) != len(self.strides):
            raise ValueError(f"anchors: expected maps of {len(self.strides)} levels, got {len(shapes)}")
        if torch.compiler.is_compiling():  # the compiler folds them into its own code
            return self._make(shapes)
        key = (*((int(h), int(w)) for h, w in shapes), self.cell_0.device)
        if key not in self.cache:
            if len(self.cache) >= CACHE_SIZE:
                self.cache.clear()
            with torch.inference_mode(False):  # a tensor made inside inference mode could not be trained with later
                self.cache[key] = self._make(shapes)
        return self.cache[key]

    def _make(self, shapes: Sequence[Shape]) -> Anchors:
        boxes = [self.place(i, shapes) for i in range(len(shapes))]
        levels = [torch.full(level.shape[:1], i, device=level.device, dtype=torch.int64) for i, level in enumerate(boxes)]
        return Anchors(torch.cat(boxes), torch.cat(levels), tuple(len(level) for level in levels))

    def place(self, level: int, shapes: Sequence[Shape]) -> Tensor:
        """Boxes [A_i, 4] of one level in pixels."""
        cell: Tensor = getattr(self, f"cell_{level}")
        vertical, horizontal = cell_steps(level, shapes, self.strides, self.cell_stride)
        y, x = (torch.arange(size, device=cell.device, dtype=torch.float32) + self.offset for size in shapes[level])
        return repeat_cell(y * vertical, x * horizontal, cell)


def repeat_cell(y: Tensor, x: Tensor, cell: Tensor) -> Tensor:
    """Boxes ``cell`` [S, 4] around every point of rows ``y`` [H] and columns ``x`` [W] -> [H * W * S, 4]."""
    yy, xx = torch.meshgrid(y, x, indexing="ij")
    return (torch.stack([xx, yy, xx, yy], dim=-1).reshape(-1, 1, 4) + cell).reshape(-1, 4)


def anchor_cells(sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[float], *, whole_pixels: bool) -> list[list[list[float]]]:
    """Boxes around (0, 0) for each level: one for every ratio (height / width) and size (square root of the area), ratio by ratio.

    ``sizes``: pixels, per level. ``whole_pixels``: sizes are cut and corners rounded to whole pixels, as in torchvision. The order is
    torchvision's too, so that its weights fit.
    """
    return [[_cell(size, ratio, whole_pixels) for ratio in aspect_ratios for size in level] for level in sizes]


def anchor_sizes(strides: Sequence[int], *, scale: float, per_octave: int) -> list[list[float]]:
    """``scale * stride * 2^(k / per_octave)``, k = 0 ... per_octave - 1, for each level (RetinaNet: scale 4, 3 per octave)."""
    return [[scale * stride * 2 ** (k / per_octave) for k in range(per_octave)] for stride in strides]


def _cell(size: float, ratio: float, whole_pixels: bool) -> list[float]:
    size = math.floor(size) if whole_pixels else size
    half_height = size * math.sqrt(ratio) / 2
    half_width = size / math.sqrt(ratio) / 2
    corners = [-half_width, -half_height, half_width, half_height]
    return [float(round(corner)) for corner in corners] if whole_pixels else corners
