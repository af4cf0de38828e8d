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
    keep = torch.zeros_like(valid)
    if not keep.numel():
        return keep
    if boxes.device.type == "cpu":
        ranks = torch.arange(boxes.shape[1], 0, -1, dtype=boxes.dtype)  # stand for scores: they fall
        for group, slots in enumerate(v.nonzero()[:, 0] for v in valid):
            keep[group, slots[nms(boxes[group, slots], ranks[: len(slots)], threshold)]] = True
        return keep
    groups, width, _ = boxes.shape
    extent = boxes.nan_to_num(0).abs().amax().double() * 2 + 1
    apart = boxes.double() + extent * torch.arange(groups, device=boxes.device)[:, None, None]
    ranks = torch.arange(groups * width, 0, -1, dtype=torch.float64, device=boxes.device)
    empty = apart.new_zeros(())  # boxes without area suppress nothing
    kept = nms(torch.where(valid[..., None], apart, empty).flatten(0, 1), ranks, threshold)
    keep.view(-1)[kept] = True
    return keep & valid


@keep_best.register_fake
def _keep_best_shape(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(valid)
