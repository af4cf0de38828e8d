"""Greedy suppression of overlapping boxes in padded groups, for proposals and late fusion alike.

Everywhere: G groups of M boxes, xyxy [G, M, 4], the best of each group first, and ``valid`` bool [G, M]: which of them count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torchvision.ops import nms

from fusion_det.boxes import pair_ious, rounded_down, rows_within

PAIRS_AT_ONCE = {"cpu": 1 << 18, "other": 1 << 22}
"""Largest number of pairs held at once, unless one rank of all groups has more. On a CPU they should stay in its cache."""

WIDE = 128
"""Groups of more boxes than this go through torchvision's kernel."""

TOGETHER = 1 << 16
"""Boxes of all groups that one call of its GPU kernel may take: it holds a bit for each pair, here 512 MiB."""

Overlap = Callable[[Tensor, Tensor], Tensor]
"""[G, R, 4], [G, M, 4] -> [G, R, M]."""


def blocks(boxes: Tensor) -> Iterator[slice]:
    """The ranks of ``boxes`` [G, M, 4] in blocks [G, R], so that the pairs [G, R, M] of a block are few enough."""
    groups, width, _ = boxes.shape
    step = rows_within(groups * width, PAIRS_AT_ONCE.get(boxes.device.type, PAIRS_AT_ONCE["other"]))
    for start in range(0, width, step):
        yield slice(start, min(start + step, width))


@torch.library.custom_op("fusion_det::greedy_keep", mutates_args=())
def greedy_keep(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """bool [G, M]: the valid boxes that no kept box before them overlaps by an IoU over ``threshold``; the same as torchvision's.

    One opaque operation with an answer of fixed size, so that a compiled step and a rehearsal without values pass over it. Wide groups
    go through torchvision's kernel, which passes over what is suppressed already; for narrow ones all groups are treated at once.
    """
    if not valid.numel():
        return torch.zeros_like(valid)
    if valid.shape[1] <= WIDE:
        return keep_by_blocks(boxes, valid, threshold, pair_ious)
    if boxes.device.type == "cpu" or valid.numel() > TOGETHER:
        return _one_by_one(boxes, valid, threshold)
    return _all_at_once(boxes, valid, threshold)


@greedy_keep.register_fake
def _greedy_keep_shape(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(valid)


def keep_by_blocks(boxes: Tensor, valid: Tensor, threshold: float, overlap: Overlap) -> Tensor:
    """:func:`greedy_keep` by any ``overlap``. Blocks of ranks are settled one after the other; each takes its own out of the later ones."""
    keep = valid.clone()
    for block in blocks(boxes):
        pairs = overlap(boxes[:, block], boxes[:, block.start :])
        above = pairs.gt_(rounded_down(threshold, pairs.dtype))  # 1.0 and 0.0: products of floats are far quicker than logic on bools
        size = block.stop - block.start
        keep[:, block] = _settle(keep[:, block], above[:, :, :size].triu(1))
        if block.stop < valid.shape[1]:
            keep[:, block.stop :] &= ~_hit(keep[:, block], above[:, :, size:])
    return keep


def _one_by_one(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """A call per group: fewer pairs than for all at once, and a CPU has nobody to wait for."""
    keep = torch.zeros_like(valid)
    ranks = _falling(boxes.shape[1], boxes)
    for group, slots in enumerate(row.nonzero()[:, 0] for row in valid):
        keep[group, slots[nms(boxes[group, slots], ranks[: len(slots)], threshold)]] = True
    return keep


def _all_at_once(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """One call for all groups, for which the host waits once. They are moved apart in float64, as float32 would lose digits."""
    groups, width, _ = boxes.shape
    extent = boxes.nan_to_num(0).abs().amax().double() * 2 + 1
    apart = boxes.double() + extent * torch.arange(groups, device=boxes.device)[:, None, None]
    apart = apart.where(valid[..., None], 0.0)  # boxes without area suppress nothing
    keep = torch.zeros_like(valid).flatten()
    keep[nms(apart.flatten(0, 1), _falling(groups * width, apart), threshold)] = True
    return keep.view_as(valid) & valid


def _falling(count: int, boxes: Tensor) -> Tensor:
    """Numbers [count] that fall and stand for scores."""
    return torch.arange(count, 0, -1, dtype=boxes.dtype, device=boxes.device)


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
