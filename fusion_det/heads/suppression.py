"""Greedy suppression of overlapping proposals, for all levels and images of a batch at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms


@torch.library.custom_op("fusion_det::keep_best", mutates_args=())
def keep_best(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """bool [G, M]: the valid boxes that no kept box before them overlaps by an IoU over ``threshold``.

    ``boxes`` [G, M, 4] xyxy, the best of each group first; ``valid`` bool [G, M]. One opaque operation with an answer of fixed size, so
    that a compiled step and a rehearsal without values pass over it. On a GPU it is torchvision's kernel over all groups, moved apart in
    float64 (float32 would lose digits); the host waits for it once.
    """
    if not valid.numel():
        return torch.zeros_like(valid)
    return _one_by_one(boxes, valid, threshold) if boxes.device.type == "cpu" else _all_at_once(boxes, valid, threshold)


@keep_best.register_fake
def _keep_best_shape(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(valid)


def _one_by_one(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """A call per group: fewer pairs than for all at once, and a CPU has nobody to wait for."""
    keep = torch.zeros_like(valid)
    ranks = torch.arange(boxes.shape[1], 0, -1, dtype=boxes.dtype)  # stand for scores: they fall
    for group, slots in enumerate(row.nonzero()[:, 0] for row in valid):
        keep[group, slots[nms(boxes[group, slots], ranks[: len(slots)], threshold)]] = True
    return keep


def _all_at_once(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """One call for all groups."""
    groups, width, _ = boxes.shape
    extent = boxes.nan_to_num(0).abs().amax().double() * 2 + 1
    apart = boxes.double() + extent * torch.arange(groups, device=boxes.device)[:, None, None]
    apart = apart.where(valid[..., None], 0.0)  # boxes without area suppress nothing
    ranks = torch.arange(groups * width, 0, -1, dtype=apart.dtype, device=boxes.device)
    keep = torch.zeros_like(valid).flatten()
    keep[nms(apart.flatten(0, 1), ranks, threshold)] = True
    return keep.view_as(valid) & valid
