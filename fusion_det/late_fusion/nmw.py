"""Non-maximum weighted: suppressed boxes move the box that suppressed them."""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor

from fusion_det.boxes import exceeds, pair_ious
from fusion_det.config.types import UnitInterval
from fusion_det.late_fusion.base import Groups, LateFusion
from fusion_det.suppression import blocks, greedy_keep


class NMW(LateFusion):
    """Greedy NMS; then each kept box becomes the mean of itself and the boxes it stands for, weighted by score x IoU with it.

    Zhou et al. 2017 (CAD, ICCV workshops). A suppressed box belongs to the better kept box that it overlaps most. Scores stay those of
    the kept boxes: unlike WBF, agreement of sources does not count.
    """

    def __init__(self, *, iou_threshold: UnitInterval, max_detections: PositiveInt, class_agnostic: bool, per_level: bool = False) -> None:
        super().__init__(max_detections=max_detections, class_agnostic=class_agnostic, per_level=per_level)
        self.iou_threshold = iou_threshold

    def fuse(self, groups: Groups) -> Groups:
        boxes, keep = groups.boxes, greedy_keep(groups.boxes, groups.valid, self.iou_threshold)
        owner, iou = self._owners(boxes, keep)
        weights = groups.scores * iou
        means = torch.empty_like(boxes)
        for block in blocks(boxes):
            ranks = torch.arange(block.start, block.stop, device=owner.device)
            share = (owner[:, None] == ranks[:, None]) * weights[:, None]  # [G, R, M]
            total = share.sum(2, keepdim=True)
            means[:, block] = torch.where(total > 0, share @ boxes / total, boxes[:, block])
        return groups._replace(boxes=means, valid=keep)

    def _owners(self, boxes: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [G, M]: the rank of the kept box that each box belongs to, and the IoU with it; a kept box owns itself (IoU 1)."""
        best = torch.zeros_like(boxes[..., 0])
        owner = torch.full_like(keep, -1, dtype=torch.int64)
        for block in blocks(boxes):
            iou = (pair_ious(boxes[:, block], boxes) * keep[:, block, None]).triu_(block.start + 1)
            value, row = iou.max(1)
            better = exceeds(value, self.iou_threshold) & (value > best)
            best = torch.where(better, value, best)
            owner = torch.where(better, row + block.start, owner)
        ranks = torch.arange(keep.shape[1], device=owner.device)
        return torch.where(keep, ranks, owner), best.masked_fill(keep, 1)
