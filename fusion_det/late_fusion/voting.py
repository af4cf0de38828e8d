"""Weighted box voting after NMS."""

from __future__ import annotations

import torch
from pydantic import PositiveInt

from fusion_det.boxes import exceeds, pair_ious
from fusion_det.config.types import UnitInterval
from fusion_det.late_fusion.base import Groups, LateFusion
from fusion_det.suppression import blocks, greedy_keep


class Voting(LateFusion):
    """Greedy NMS; then each kept box becomes the mean, weighted by score, of all candidates with an IoU above ``vote_threshold``.

    Gidaris and Komodakis 2015 (MR-CNN, ICCV, arXiv 1505.01749; NMS at 0.3, votes at 0.5), used by ION (Bell et al. 2016, arXiv
    1512.04143). Suppressed candidates vote, for as many kept boxes as they overlap; scores stay.

    The papers vote over the candidates of two passes of box regression: ``head.rounds=2``. A box without area, which nothing votes for,
    stays.
    """

    def __init__(
        self,
        *,
        iou_threshold: UnitInterval,
        vote_threshold: UnitInterval,
        max_detections: PositiveInt,
        class_agnostic: bool,
        per_level: bool = False,
    ) -> None:
        super().__init__(max_detections=max_detections, class_agnostic=class_agnostic, per_level=per_level)
        self.iou_threshold, self.vote_threshold = iou_threshold, vote_threshold

    def fuse(self, groups: Groups) -> Groups:
        boxes, keep = groups.boxes, greedy_keep(groups.boxes, groups.valid, self.iou_threshold)
        means = torch.empty_like(boxes)
        for block in blocks(boxes):
            votes = exceeds(pair_ious(boxes[:, block], boxes), self.vote_threshold)  # [G, R, M]
            weights = votes * groups.scores[:, None]
            total = weights.sum(2, keepdim=True)
            means[:, block] = torch.where(total > 0, weights @ boxes / total, boxes[:, block])
        return groups._replace(boxes=means, valid=keep)
