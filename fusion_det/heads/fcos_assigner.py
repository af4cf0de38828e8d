"""FCOS's assignment of points to objects, for a whole padded batch at once.

Legend: B images, P points of all levels, G padded objects.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fusion_det.boxes import chunk_size
from fusion_det.heads.assignment import Assignment, assign_objects
from fusion_det.structures import Targets


def assign_points(points: Tensor, strides: Tensor, low: Tensor, high: Tensor, targets: Targets, *, center_radius: float) -> Assignment:
    """Assign each point to the smallest object that it may stand for (Tian et al., ICCV 2019, arXiv 1904.01355, section 3.2).

    A point is a candidate for an object if it lies inside the box, within ``center_radius`` strides of the box's centre (in both axes;
    0 switches centre sampling off), and if the largest of its four distances lies in (``low``, ``high``) of its level.
    ``points`` [P, 2] xy; ``strides``, ``low``, ``high`` [P]; pixels of the network frame.
    """
    chunk = chunk_size(targets.labels.numel(), points.device)
    parts = [
        _assign_chunk(points[i : i + chunk], strides[i : i + chunk], low[i : i + chunk], high[i : i + chunk], targets, center_radius)
        for i in range(0, len(points), chunk)
    ]
    return parts[0] if len(parts) == 1 else Assignment(*(torch.cat(column, dim=1) for column in zip(*parts, strict=True)))


def _assign_chunk(points: Tensor, strides: Tensor, low: Tensor, high: Tensor, targets: Targets, radius: float) -> Assignment:
    boxes = targets.boxes[:, None]  # [B, 1, G, 4]
    x, y = points[None, :, None, 0], points[None, :, None, 1]  # [1, P, 1]
    left, top, right, bottom = x - boxes[..., 0], y - boxes[..., 1], boxes[..., 2] - x, boxes[..., 3] - y  # [B, P, G]
    inside = torch.minimum(torch.minimum(left, right), torch.minimum(top, bottom)) > 0
    reach = torch.maximum(torch.maximum(left, right), torch.maximum(top, bottom))
    fits = inside & (reach > low[None, :, None]) & (reach < high[None, :, None]) & targets.valid[:, None]
    if radius > 0:
        # |x - centre| <= r: half the difference of the distances to the two sides.
        offset = torch.maximum((left - right).abs(), (top - bottom).abs()) / 2
        fits = fits & (offset < (radius * strides)[None, :, None])
    extent = targets.boxes[..., 2:] - targets.boxes[..., :2]
    area = extent.prod(dim=-1)[:, None].expand_as(fits)  # [B, P, G]
    smallest, index = torch.where(fits, area, torch.inf).min(dim=2)
    positive = torch.isfinite(smallest)
    return assign_objects(torch.where(positive, index, -1), (inside & targets.crowd[:, None]).any(dim=2), targets)
