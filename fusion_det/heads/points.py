"""Feature-map cells as points in the network frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def grid_points(
    shapes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device, *, offset: float = 0.5
) -> tuple[Tensor, Tensor]:
    """One point per cell of all levels, ``offset`` strides into it (0.5: its centre), in row-major order, level after level.

    ``shapes``: (H, W) per level. Returns points [P, 2] (x, y) in pixels of the network frame and each point's level index [P].
    """
    points, levels = [], []
    for index, ((height, width), stride) in enumerate(zip(shapes, strides, strict=True)):
        y = (torch.arange(height, device=device, dtype=torch.float32) + offset) * stride
        x = (torch.arange(width, device=device, dtype=torch.float32) + offset) * stride
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
