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
    size = chunk_size(targets.labels.numel(), anchors.device)
    chunks = anchors.split(size, dim=-2)
    look = _make_look(targets, anchors.shape[-2], len(chunks))
    best, slot, in_crowd = look[:3]
    parts = zip(*(x.split(size, dim=1) for x in look[:3]), look.top, look.top_anchor, strict=True)
    # One chunk, the usual case, keeps its pairs; several compute them again where needed: memory is what chunks are for.
    kept = [_look(chunk, targets, crowd_overlap, _Look(*part), keep=len(chunks) == 1) for chunk, part in zip(chunks, parts, strict=True)]
    index = torch.where(best >= positive_overlap, slot, -1)
    if rescue == "ties":
        top, tied = look.top.amax(dim=0), torch.empty_like(in_crowd)
        for ious, chunk, part in zip(kept, chunks, tied.split(size, dim=1), strict=True):
            part.copy_(_tied(_masked_ious(chunk, targets)[0] if ious is None else ious, top))
        index = torch.where(tied, slot, index)
    elif rescue == "best":
        forced = _forced(look, size)
        index = torch.where(forced >= 0, forced, index)
    between = (best >= negative_overlap) & (best < positive_overlap)
    return assign_objects(index, between | in_crowd, targets)


class _Look(NamedTuple):
    """What the chunks of anchors tell; each fills its part."""

    best: Tensor
    """[B, A]: each anchor's largest IoU; -1 without objects."""
    slot: Tensor
    """int64 [B, A]: the object that has it."""
    in_crowd: Tensor
    """bool [B, A]."""
    top: Tensor
    """[N, B, G]: each object's largest IoU in each of N chunks; -1 for padding."""
    top_anchor: Tensor
    """int64 [N, B, G]: the anchor, counted within the chunk, that has it."""


def _make_look(targets: Targets, count: int, chunks: int) -> _Look:
    """Room for what ``count`` anchors tell. Made beforehand: what each chunk left behind, between its large maps, would keep the C
    library from using their memory for the next one (450 MiB with 5,000 objects)."""
    batch, objects = targets.labels.shape
    values, slots = targets.boxes.new_empty, targets.labels.new_empty
    return _Look(
        values(batch, count),
        slots(batch, count),
        targets.crowd.new_empty(batch, count),
        values(chunks, batch, objects),
        slots(chunks, batch, objects),
    )


def _masked_ious(anchors: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """IoU (-1 for what is no object) and intersection of each pair [B, G, chunk]."""
    intersections = pair_intersections(targets.boxes, anchors)
    return pair_ious(targets.boxes, anchors, intersections).masked_fill_(~targets.valid[..., None], -1), intersections


def _look(anchors: Tensor, targets: Targets, crowd_overlap: float, part: _Look, *, keep: bool) -> Tensor | None:
    """Fill the part of one chunk [A'] of anchors; the pairs' IoU [B, G, A'] if they are to be kept."""
    ious, intersections = _masked_ious(anchors, targets)
    found = (*ious.max(dim=1), *ious.max(dim=2))
    for place, value in zip((part.best, part.slot, part.top, part.top_anchor), found, strict=True):
        place.copy_(value)
    covered = intersections.mul_(targets.crowd[..., None]).amax(dim=1)
    part.in_crowd.copy_(covered > crowd_overlap * box_area(anchors))
    return ious if keep else None


def _tied(ious: Tensor, top: Tensor) -> Tensor:
    """Anchors whose overlap [B, G, A'] with some object is that object's largest, ``top`` [B, G] -> bool [B, A']."""
    return ((ious == top[..., None]) & (top > 0)[..., None]).any(dim=1)


def _forced(look: _Look, size: int) -> Tensor:
    """Slot of the object that has each anchor as its best one, [B, A]; -1 for none. ``size``: anchors of a chunk."""
    top, chunk = look.top.max(dim=0)  # [B, G]
    anchor = look.top_anchor.gather(0, chunk[None])[0] + chunk * size
    slots = torch.arange(top.shape[1], device=top.device).expand_as(anchor)
    # One place more than anchors takes what has none.
    count = look.best.shape[1]
    forced = slots.new_full((top.shape[0], count + 1), -1)
    return forced.scatter_reduce(1, torch.where(top > 0, anchor, count), slots, "amax")[:, :count]
