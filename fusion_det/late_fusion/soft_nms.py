"""Soft-NMS: overlapping boxes lose score instead of their place."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from fusion_det.boxes import exceeds, pair_ious
from fusion_det.config.types import UnitInterval
from fusion_det.late_fusion.base import Groups, LateFusion


class SoftNMS(LateFusion):
    """Take the best box, multiply the scores of the others by f(IoU with it), repeat with what is the best now.

    Bodla et al. 2017 (ICCV, arXiv 1704.04503), eq. (2) and (3): ``linear`` f = 1 - IoU where IoU exceeds ``iou_threshold``, else 1;
    ``gaussian`` f = exp(-IoU^2 / ``sigma``). Detections whose score falls below ``score_threshold`` are dropped.

    Deviation: boxes have no +1 in their width and height. Which box is next depends on all decays before, so there is a loop over
    ranks, but each step treats all images and classes. Scores are taken in falling order, so that after ``max_detections`` steps every
    group has given all that can be used.
    """

    def __init__(
        self,
        *,
        method: Literal["linear", "gaussian"],
        sigma: PositiveFloat,
        iou_threshold: UnitInterval,
        score_threshold: UnitInterval,
        max_detections: PositiveInt,
        class_agnostic: bool,
        per_level: bool = False,
    ) -> None:
        super().__init__(max_detections=max_detections, class_agnostic=class_agnostic, per_level=per_level)
        self.method, self.sigma, self.iou_threshold, self.score_threshold = method, sigma, iou_threshold, score_threshold

    def fuse(self, groups: Groups) -> Groups:
        boxes, rows = groups.boxes, torch.arange(len(groups.boxes), device=groups.boxes.device)
        waiting = groups.scores.masked_fill(~groups.valid, -1)  # [G, M]; -1: taken or padding, below every threshold
        scores, taken = groups.scores.clone(), torch.zeros_like(groups.valid)
        for _ in range(min(groups.scores.shape[1], groups.most)):
            best, slot = waiting.max(1)  # the first of equal ones
            good = best >= self.score_threshold
            if not good.any():
                break
            taken[rows, slot] |= good
            scores[rows, slot] = torch.where(good, best, scores[rows, slot])  # a finished group stays as it is
            waiting *= self._factor(pair_ious(boxes[rows, slot, None], boxes)[:, 0])
            waiting.masked_fill_(taken, -1)
        return groups._replace(scores=scores, valid=taken)

    def _factor(self, iou: Tensor) -> Tensor:
        if self.method == "gaussian":
            return torch.exp(-(iou**2) / self.sigma)
        return torch.where(exceeds(iou, self.iou_threshold), 1 - iou, 1)
