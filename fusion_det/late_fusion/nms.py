"""Greedy non-maximum suppression."""

from __future__ import annotations

from pydantic import PositiveInt

from fusion_det.config.types import UnitInterval
from fusion_det.late_fusion.base import Groups, LateFusion
from fusion_det.suppression import greedy_keep


class NMS(LateFusion):
    """Keep the best box, drop those of its class that overlap it by more than ``iou_threshold``, repeat.

    The same boxes as ``torchvision.ops.nms`` per image and class (tested), but all groups of the batch at once: ``batched_nms`` loops over
    the classes or moves the boxes apart by large numbers, which costs float32 its digits. Among equal scores, which torchvision takes in
    the order given, the order here is fixed by the boxes themselves.
    """

    def __init__(self, *, iou_threshold: UnitInterval, max_detections: PositiveInt, class_agnostic: bool, per_level: bool = False) -> None:
        super().__init__(max_detections=max_detections, class_agnostic=class_agnostic, per_level=per_level)
        self.iou_threshold = iou_threshold

    def fuse(self, groups: Groups) -> Groups:
        return groups._replace(valid=greedy_keep(groups.boxes, groups.valid, self.iou_threshold))
