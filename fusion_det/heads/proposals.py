"""Regions worth a second look: the best anchors of each level, moved, clipped and thinned out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fusion_det.heads.anchors import Anchors
from fusion_det.heads.box_coder import BoxCoder
from fusion_det.heads.random_sampling import take_rows
from fusion_det.suppression import greedy_keep

# Sides of a proposal in pixels (torchvision's).
SMALLEST = 1e-3


class Proposals(NamedTuple):
    """R regions of each image, padded."""

    boxes: Tensor
    """float32 [B, R, 4] xyxy in the network frame, clipped; without gradient."""
    valid: Tensor
    """bool [B, R]."""
    levels: Tensor
    """int64 [B, R]: the level of the anchor that each came from."""


@torch.no_grad()
def propose(
    logits: Tensor,
    deltas: Tensor,
    anchors: Anchors,
    limits: Tensor,
    coder: BoxCoder,
    *,
    per_level: int,
    count: int,
    overlap: float,
    score_threshold: float,
) -> Proposals:
    """The ``per_level`` best anchors of each level, without those that a better one of their level overlaps by more than ``overlap``; of
    all levels the best ``count``.

    ``logits`` [B, A] objectness, ``deltas`` [B, A, 4], ``limits`` [B, 1, 4] or [1, 1, 4]: what corners are clipped to (width, height,
    width, height). Boxes with a side under a thousandth of a pixel or a probability under ``score_threshold`` are dropped.
    An objectness that is no number makes its box one, so that it is seen in what comes out.
    """
    found, start = [], 0
    widest = min(per_level, max(anchors.counts))
    for level in anchors.counts:
        best, index = logits[:, start : start + level].topk(min(per_level, level), dim=1)
        index = index + start
        boxes = coder.decode(take_rows(deltas, index), anchors.boxes[index]) + (0 * best)[..., None]
        missing = widest - best.shape[1]
        fired = F.pad(anchors.levels[index], (0, missing))
        found.append((F.pad(boxes, (0, 0, 0, missing)), F.pad(best.sigmoid(), (0, missing), value=-1.0), fired))
        start += level
    boxes, scores, levels = (torch.stack(parts, dim=1) for parts in zip(*found, strict=True))  # [B, L, M, 4], [B, L, M] twice
    boxes = torch.minimum(boxes.clamp(min=0), limits[:, None])
    small = ((boxes[..., 2:] - boxes[..., :2]) < SMALLEST).any(dim=-1)
    valid = ~small & ~(scores < score_threshold)
    keep = greedy_keep(boxes.flatten(0, 1), valid.flatten(0, 1), overlap).view_as(valid)
    scores = torch.where(keep, scores, -1.0).flatten(1)
    best, index = scores.topk(min(count, scores.shape[1]), dim=1)
    return Proposals(take_rows(boxes.flatten(1, 2), index), ~(best < 0), levels.flatten(1).gather(1, index))
