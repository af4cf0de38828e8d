"""No suppression."""

from __future__ import annotations

from pydantic import PositiveInt

from fusion_det.late_fusion.base import Groups, LateFusion


class NoSuppression(LateFusion):
    """The best ``max_detections`` candidates of each image, as they are: for heads that give one box per object, and as a control."""

    def __init__(self, *, max_detections: PositiveInt) -> None:
        super().__init__(max_detections=max_detections, class_agnostic=True, per_level=False)

    def fuse(self, groups: Groups) -> Groups:
        return groups
