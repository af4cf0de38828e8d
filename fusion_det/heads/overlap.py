"""How much boxes cover each other. All boxes are xyxy of one frame.

Legend: B images, G objects, A anchors. Pairs are laid out [B, G, A]: the long axis last, which vector units and reductions want.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Pairs [B, G, chunk] that are looked at together; about five float maps of them live at once. Only batches with many boxes reach it.
# On a CPU 8 MiB a map (more falls out of its caches and takes twice as long), elsewhere 64 MiB (fewer launches).
CHUNK_PAIRS = 2**21
CHUNK_PAIRS_ACCELERATOR = 2**24


def chunk_size(pairs_each: int, device: torch.device) -> int:
    """How many rows of ``pairs_each`` pairs to look at together."""
    limit = CHUNK_PAIRS if device.type == "cpu" else CHUNK_PAIRS_ACCELERATOR
    return max(1, limit // max(1, pairs_each))


def box_area(boxes: Tensor) -> Tensor:
    """Boxes [..., 4] -> areas [...]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pair_intersections(objects: Tensor, anchors: Tensor) -> Tensor:
    """Areas that ``objects`` [B, G, 4] share with ``anchors`` [A, 4] (the same for all images) or [B, A, 4] -> [B, G, A]."""
    g, a = objects[..., :, None, :], anchors[..., None, :, :]
    width = torch.minimum(g[..., 2], a[..., 2]) - torch.maximum(g[..., 0], a[..., 0])
    height = torch.minimum(g[..., 3], a[..., 3]) - torch.maximum(g[..., 1], a[..., 1])
    return width.clamp_(min=0).mul_(height.clamp_(min=0))


def pair_ious(objects: Tensor, anchors: Tensor, intersections: Tensor) -> Tensor:
    """Intersection over union of each pair [B, G, A]; as in torchvision, to the last bit."""
    union = box_area(objects)[..., :, None] + box_area(anchors)[..., None, :] - intersections
    return intersections / union


def aligned_ious(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes [..., 4] with their counterparts [..., 4] -> [...]; 0 for two boxes without area."""
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    return shared / (box_area(first) + box_area(second) - shared).clamp(min=1e-6)
