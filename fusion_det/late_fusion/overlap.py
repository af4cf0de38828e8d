"""Overlaps of boxes in padded groups, in blocks that bound the memory, and greedy suppression by them.

Everywhere: G groups of M boxes, ``xyxy`` [G, M, 4], in order of falling score; padding boxes are zero and overlap nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

PAIRS_AT_ONCE = {"cpu": 1 << 18, "other": 1 << 22}
"""Largest number of pairs held at once, unless one rank of all groups has more. On a CPU they should stay in its cache."""

WIDE = 128
"""Groups of more boxes than this are suppressed one by one, where torchvision's kernel can do it."""

Overlap = Callable[[Tensor, Tensor], Tensor]
"""[G, R, 4], [G, M, 4] -> [G, R, M]."""


def pairwise_iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union [G, R, M] of the boxes [G, R, 4] and [G, M, 4]; 0 for two boxes without area."""
    a, b = one[..., :, None, :].unbind(-1), other[..., None, :, :].unbind(-1)
    width = (torch.minimum(a[2], b[2]) - torch.maximum(a[0], b[0])).clamp_(min=0)
    shared = (torch.minimum(a[3], b[3]) - torch.maximum(a[1], b[1])).clamp_(min=0).mul_(width)
    union = (area(one)[..., :, None] + area(other)[..., None, :]).sub_(shared)
    return shared.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def area(boxes: Tensor) -> Tensor:
    """[..., 4] -> [...]; 0 for a box whose corners are swapped."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def exceeds(overlap: Tensor, threshold: float) -> Tensor:
    """bool: ``overlap > threshold`` as torchvision's CPU kernel decides it, that is without rounding the threshold up to float32."""
    return overlap > _rounded_down(threshold, overlap.dtype)


def blocks(boxes: Tensor) -> Iterator[slice]:
    """The ranks of ``boxes`` [G, M, 4] in blocks [G, R], so that the pairs [G, R, M] of a block are few enough."""
    groups, width, _ = boxes.shape
    step = max(1, PAIRS_AT_ONCE.get(boxes.device.type, PAIRS_AT_ONCE["other"]) // max(1, groups * width))
    for start in range(0, width, step):
        yield slice(start, min(start + step, width))


def greedy_keep(boxes: Tensor, valid: Tensor, threshold: float, overlap: Overlap = pairwise_iou) -> Tensor:
    """bool [G, M]: the boxes that greedy suppression keeps: those that no kept box of higher rank overlaps by more than ``threshold``.

    Blocks of ranks are settled one after the other; each takes what it keeps out of the later ones.
    """
    if overlap is pairwise_iou and valid.shape[1] > WIDE:
        return _keep_by_torchvision(boxes, valid, threshold)
    keep = valid.clone()
    for block in blocks(boxes):
        pairs = overlap(boxes[:, block], boxes[:, block.start :])
        above = pairs.gt_(_rounded_down(threshold, pairs.dtype))  # 1.0 and 0.0: products of floats are far quicker than logic on bools
        size = block.stop - block.start
        keep[:, block] = _settle(keep[:, block], above[:, :, :size].triu(1))
        if block.stop < valid.shape[1]:
            keep[:, block.stop :] &= ~_hit(keep[:, block], above[:, :, size:])
    return keep


def _keep_by_torchvision(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Group by group: few groups are wide, and the kernel passes over what is suppressed already, which a product of matrices cannot."""
    ranks = torch.arange(valid.shape[1], 0, -1, device=boxes.device, dtype=boxes.dtype)  # stand for scores: they fall
    keep = torch.zeros_like(valid)
    for row, count in enumerate(valid.sum(1).tolist()):
        keep[row, nms(boxes[row, :count], ranks[:count], threshold)] = True
    return keep


def _settle(alive: Tensor, above: Tensor) -> Tensor:
    """Greedy suppression inside a block: ``alive`` bool [G, R], ``above`` [G, R, R], 1 where i < j and i overlaps j too much, else 0.

    The rule is applied to all at once until nothing changes (Cluster-NMS, Zheng et al. 2020, arXiv 2005.03572). After t rounds the first
    t ranks are final, so it ends with the greedy result; in practice after as many rounds as chains of overlapping boxes are long.
    """
    keep = alive
    while True:
        again = alive & ~_hit(keep, above)
        if torch.equal(again, keep):
            return keep
        keep = again


def _hit(keep: Tensor, above: Tensor) -> Tensor:
    """bool [G, M]: whether any rank of ``keep`` (bool [G, R]) has a 1 in ``above`` [G, R, M]."""
    return (keep[:, None].to(above.dtype) @ above)[:, 0] > 0


@functools.lru_cache
def _rounded_down(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` that is not above ``threshold``."""
    if dtype == torch.float64:
        return threshold
    near = np.float32(threshold)
    return float(near if float(near) <= threshold else np.nextafter(near, np.float32(-np.inf)))
