"""Anchors and objects brought together by their overlap, for a whole padded batch at once.

Legend: B images, G padded objects, A anchors of all levels.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fusion_det.boxes import box_area, chunk_size, pair_intersections, pair_ious
from fusion_det.heads.assignment import Assignment, assign_objects
from fusion_det.structures import Targets

Rescue = Literal["none", "ties", "best"]
"""What happens to objects that no anchor overlaps enough. none: nothing. ties: each anchor that ties for an object's best overlap learns
the object that the anchor overlaps most (torchvision's RetinaNet and RPN). best: the object's one best anchor learns this object (SSD)."""


@torch.no_grad()
def match_anchors(
    anchors: Tensor,
    targets: Targets,
    *,
    positive_overlap: float,
    negative_overlap: float,
    rescue: Rescue,
    crowd_overlap: float,
) -> Assignment:
    """Give each anchor the object that it overlaps most, if their IoU is ``positive_overlap`` or more; background is what stays under
    ``negative_overlap`` with all.

    ``anchors``: xyxy [A, 4], or [B, A, 4] if they differ between images (proposals). Anchors between the thresholds are ignored, and so is
    background of which more than the share ``crowd_overlap`` lies inside one crowd region. That is a share of the anchor's own area (IoF),
    as in COCO's evaluation: a large anchor around the whole region stays background. Pairs are visited in chunks of anchors, so that
    temporary memory is bounded however many boxes there are: about 40 MiB on a CPU and eight times that elsewhere.

    Deviations from torchvision: an object that no anchor touches (one outside the picture) rescues no anchor, there every anchor; if two
    objects have the same best anchor (``rescue="best"``), the later one gets it, there (on GPUs) whichever is written last.
    """
    chunks = anchors.split(chunk_size(targets.labels.numel(), anchors.device), dim=-2)
    found = [_look(chunk, targets, crowd_overlap, keep=len(chunks) == 1) for chunk in chunks]
    best, slot, in_crowd = (torch.cat([getattr(f, name) for f in found], dim=1) for name in ("best", "slot", "in_crowd"))
    index = torch.where(best >= positive_overlap, slot, -1)
    if rescue == "ties":
        top = torch.stack([f.top for f in found]).amax(dim=0)
        tied = torch.cat([_tied(look, chunk, targets, top) for look, chunk in zip(found, chunks, strict=True)], dim=1)
        index = torch.where(tied, slot, index)
    elif rescue == "best":
        forced = _forced(found, best.shape[1])
        index = torch.where(forced >= 0, forced, index)
    between = (best >= negative_overlap) & (best < positive_overlap)
    return assign_objects(index, between | in_crowd, targets)


class _Look(NamedTuple):
    """What one chunk of anchors tells."""

    best: Tensor
    """[B, chunk]: each anchor's largest IoU; -1 without objects."""
    slot: Tensor
    """[B, chunk]: the object that has it."""
    in_crowd: Tensor
    """bool [B, chunk]."""
    top: Tensor
    """[B, G]: each object's largest IoU; -1 for padding."""
    top_anchor: Tensor
    """[B, G]: the anchor of the chunk that has it."""
    ious: Tensor | None
    """[B, G, chunk], if kept."""


def _masked_ious(anchors: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """IoU (-1 for what is no object) and intersection of each pair [B, G, chunk]."""
    intersections = pair_intersections(targets.boxes, anchors)
    return pair_ious(targets.boxes, anchors, intersections).masked_fill_(~targets.valid[..., None], -1), intersections


def _look(anchors: Tensor, targets: Targets, crowd_overlap: float, *, keep: bool) -> _Look:
    ious, intersections = _masked_ious(anchors, targets)
    best, slot = ious.max(dim=1)
    covered = intersections.mul_(targets.crowd[..., None]).amax(dim=1)
    top, top_anchor = ious.max(dim=2)
    return _Look(best, slot, covered > crowd_overlap * box_area(anchors), top, top_anchor, ious if keep else None)


def _tied(look: _Look, anchors: Tensor, targets: Targets, top: Tensor) -> Tensor:
    """Anchors whose overlap with some object is that object's largest, ``top`` [B, G] -> bool [B, chunk]."""
    # One chunk, the usual case, has kept its pairs; several compute them again: memory is what chunks are for.
    ious = look.ious if look.ious is not None else _masked_ious(anchors, targets)[0]
    return ((ious == top[..., None]) & (top > 0)[..., None]).any(dim=1)


def _forced(found: list[_Look], count: int) -> Tensor:
    """Slot of the object that has each anchor as its best one, [B, A]; -1 for none."""
    starts = [0]
    for f in found:
        starts.append(starts[-1] + f.best.shape[1])
    top, chunk = torch.stack([f.top for f in found]).max(dim=0)  # [B, G]
    anchors = torch.stack([f.top_anchor + start for f, start in zip(found, starts, strict=False)])
    anchor = anchors.gather(0, chunk[None])[0]
    slots = torch.arange(top.shape[1], device=top.device).expand_as(anchor)
    # One place more than anchors takes what has none.
    forced = slots.new_full((top.shape[0], count + 1), -1)
    return forced.scatter_reduce(1, torch.where(top > 0, anchor, count), slots, "amax")[:, :count]
