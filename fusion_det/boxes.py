"""How much boxes cover each other, for heads and late fusion alike. All boxes are xyxy of one frame.

Legend: B images or groups, G objects or ranks, A anchors or boxes. Pairs are laid out [B, G, A]: the long axis last, which vector units
and reductions want. IoUs equal torchvision's to the last bit, and are 0 where torchvision has 0 / 0.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

# Pairs [B, G, chunk] that are looked at together; about five float maps of them live at once. Only batches with many boxes reach it.
# On a CPU 8 MiB a map (more falls out of its caches and takes twice as long), elsewhere 64 MiB (fewer launches).
CHUNK_PAIRS = 2**21
CHUNK_PAIRS_ACCELERATOR = 2**24


def chunk_size(pairs_each: int, device: torch.device) -> int:
    """How many rows of ``pairs_each`` pairs to look at together."""
    return rows_within(pairs_each, CHUNK_PAIRS if device.type == "cpu" else CHUNK_PAIRS_ACCELERATOR)


def rows_within(pairs_each: int, limit: int) -> int:
    """How many rows of ``pairs_each`` pairs make at most ``limit`` pairs; at least one."""
    return max(1, limit // max(1, pairs_each))


def box_area(boxes: Tensor) -> Tensor:
    """Boxes [..., 4] -> areas [...]; 0 for a box whose corners are swapped."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def pair_intersections(one: Tensor, other: Tensor) -> Tensor:
    """Areas that boxes ``one`` [B, G, 4] share with ``other`` [A, 4] (the same for all images) or [B, A, 4] -> [B, G, A]."""
    a, b = one[..., :, None, :], other[..., None, :, :]
    width = torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])
    height = torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])
    return width.clamp_(min=0).mul_(height.clamp_(min=0))


def pair_ious(one: Tensor, other: Tensor, intersections: Tensor | None = None) -> Tensor:
    """Intersection over union of each pair of boxes ``one`` [B, G, 4] and ``other`` [A, 4] or [B, A, 4] -> [B, G, A].

    0 for two boxes without area. ``intersections``: if they are known; they are kept.
    """
    shared = pair_intersections(one, other) if intersections is None else intersections
    area = box_area(one).clamp(min=torch.finfo(shared.dtype).tiny)  # not the pairs' union, which is a thousand times as large a tensor
    union = (area[..., :, None] + box_area(other)[..., None, :]).sub_(shared)
    return shared / union if intersections is not None else shared.div_(union)


def aligned_ious(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes [..., 4] with their counterparts [..., 4] -> [...]; 0 for two boxes without area."""
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    return shared / (box_area(first) + box_area(second) - shared).clamp(min=1e-6)


def exceeds(overlap: Tensor, threshold: float) -> Tensor:
    """bool: ``overlap > threshold`` as torchvision's CPU kernel decides it, that is without rounding the threshold up to float32."""
    return overlap > rounded_down(threshold, overlap.dtype)


@functools.lru_cache
def rounded_down(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` that is not above ``threshold``."""
    if dtype == torch.float64:
        return threshold
    near = np.float32(threshold)
    return float(near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf)))
