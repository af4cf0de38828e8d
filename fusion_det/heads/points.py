"""Feature-map cells as points in the network frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

CellStride = Literal["level", "measured"]
"""The distance of two cells. level: the level's stride. measured: height (width) of the picture // that of the map, as torchvision has it;
the picture's is the finest map's times its stride. They differ where the picture is no multiple of the stride."""


def cell_steps(level: int, shapes: Sequence[tuple[int, int]], strides: Sequence[float], cell_stride: CellStride) -> tuple[float, float]:
    """Distance of two cells of a level, down and to the right, in pixels; ``shapes``: (H, W) per level, fine to coarse."""
    if cell_stride == "level":
        return strides[level], strides[level]
    (finest_height, finest_width), (height, width) = shapes[0], shapes[level]
    return finest_height * strides[0] // height, finest_width * strides[0] // width


def grid_points(
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    device: torch.device,
    *,
    offset: float = 0.5,
    cell_stride: CellStride = "level",
) -> tuple[Tensor, Tensor]:
    """One point per cell of all levels, ``offset`` steps into it (0.5: its centre), in row-major order, level after level.

    ``shapes``: (H, W) per level. Returns points [P, 2] (x, y) in pixels of the network frame and each point's level index [P].
    """
    points, levels = [], []
    if len(shapes) != len(strides):
        raise ValueError(f"points: expected maps of {len(strides)} levels, got {len(shapes)}")
    for index, (height, width) in enumerate(shapes):
        down, right = cell_steps(index, shapes, strides, cell_stride)
        y = (torch.arange(height, device=device, dtype=torch.float32) + offset) * down
        x = (torch.arange(width, device=device, dtype=torch.float32) + offset) * right
        yy, xx = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack([xx, yy], dim=-1).reshape(-1, 2))
        levels.append(torch.full((height * width,), index, device=device, dtype=torch.int64))
    return torch.cat(points), torch.cat(levels)


def decode_distances(points: Tensor, distances: Tensor) -> Tensor:
    """Points [..., 2] and their distances to the four sides [..., 4] (left, top, right, bottom; pixels) -> boxes [..., 4] xyxy."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


def encode_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Points [..., 2] and boxes [..., 4] xyxy -> distances to the four sides [..., 4]; negative for a side that the point lies beyond."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def level_values(values: Sequence[float], counts: Sequence[int], device: torch.device) -> Tensor:
    """``values[i]`` repeated ``counts[i]`` times, level after level, float32; made on the device: no copy, no wait."""
    return torch.cat([torch.full((count,), float(value), device=device) for value, count in zip(values, counts, strict=True)])
