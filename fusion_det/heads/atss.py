"""Adaptive training sample selection.

Legend: B images, G padded objects, A anchors of all levels, K candidates per object.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fusion_det.boxes import aligned_ious, chunk_size
from fusion_det.heads.anchors import Anchors
from fusion_det.heads.assignment import Assignment, assign_objects, inside_crowds
from fusion_det.structures import Targets

# A centre must lie so many pixels inside the box (the authors' code).
MARGIN = 0.01


@torch.no_grad()
def assign_atss(anchors: Anchors, targets: Targets, *, nearest: int) -> Assignment:
    """Let each object choose its anchors by its own threshold (Zhang, Chi, Yao, Lei, Li; CVPR 2020, arXiv 1912.02424, algorithm 1).

    Candidates of an object are the ``nearest`` anchors of each level by the distance of the centres; positive are those whose IoU reaches
    mean + standard deviation (of a sample, N - 1) of its candidates' IoUs and whose centre lies inside the box. An anchor chosen by
    several objects takes the one of highest IoU. Background whose centre lies in a crowd region is ignored (the authors have no rule).
    Equal distances are ordered as ``topk`` likes. Temporary memory does not grow with the number of boxes beyond K per box.
    """
    centres = (anchors.boxes[:, :2] + anchors.boxes[:, 2:]) / 2
    candidates = _nearest(centres, anchors.counts, targets, nearest)  # [B, G, K]
    ious = aligned_ious(targets.boxes[:, :, None], anchors.boxes[candidates])
    mean = ious.mean(dim=2, keepdim=True)
    spread = ((ious - mean).square().sum(dim=2, keepdim=True) / max(ious.shape[2] - 1, 1)).sqrt()
    x, y = centres[candidates].unbind(dim=-1)
    left, top, right, bottom = targets.boxes[:, :, None].unbind(dim=-1)
    inside = torch.minimum(torch.minimum(x - left, right - x), torch.minimum(y - top, bottom - y)) > MARGIN
    chosen = (ious >= mean + spread) & inside & targets.valid[..., None]
    index = _highest(candidates, ious, chosen, len(centres))
    return assign_objects(index, inside_crowds(centres, targets), targets)


def _nearest(centres: Tensor, counts: tuple[int, ...], targets: Targets, nearest: int) -> Tensor:
    """Anchors [B, G, K] closest to each object's centre, ``nearest`` of each level (all, if it has fewer)."""
    batch = targets.labels.shape[0]
    parts = []
    for boxes in targets.boxes.split(chunk_size(batch * len(centres), centres.device), dim=1):
        middle = (boxes[..., :2] + boxes[..., 2:]) / 2
        x, y = middle[..., :1] - centres[:, 0], middle[..., 1:] - centres[:, 1]  # [B, chunk, A]
        distances = x.square_().add_(y.square_())
        start, found = 0, []
        for count in counts:
            level = distances[..., start : start + count]
            found.append(start + level.topk(min(nearest, count), dim=2, largest=False, sorted=False).indices)
            start += count
        parts.append(torch.cat(found, dim=2))
    return torch.cat(parts, dim=1)


def _highest(candidates: Tensor, ious: Tensor, chosen: Tensor, count: int) -> Tensor:
    """Slot [B, A] of the object of highest IoU among those that chose each anchor (the first of equals); -1 for none."""
    batch, objects, _ = candidates.shape
    anchor = candidates.flatten(1)
    value = torch.where(chosen, ious, -1.0).flatten(1)
    best = value.new_full((batch, count), -1).scatter_reduce(1, anchor, value, "amax")
    slots = torch.arange(objects, device=anchor.device)[:, None].expand(chosen.shape).flatten(1)
    winner = torch.where(chosen.flatten(1) & (value == best.gather(1, anchor)), slots, objects)
    first = winner.new_full((batch, count), objects).scatter_reduce(1, anchor, winner, "amin")
    return torch.where(first < objects, first, -1)
