"""DIoU-NMS: boxes whose centres lie apart suppress each other less."""

from __future__ import annotations

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from fusion_det.boxes import pair_ious
from fusion_det.config.types import UnitInterval
from fusion_det.late_fusion.base import Groups, LateFusion
from fusion_det.suppression import keep_by_blocks


class DIoUNMS(LateFusion):
    """Greedy suppression where IoU - (d^2 / c^2)^beta exceeds ``threshold``; d: distance of the centres, c: diagonal around both boxes.

    Zheng et al. 2020 (AAAI, arXiv 1911.08287), section on DIoU-NMS. ``beta`` is 1 in the paper; the authors' Darknet code has it as an
    option. Two boxes in one point have distance 0.
    """

    def __init__(
        self, *, threshold: UnitInterval, beta: PositiveFloat, max_detections: PositiveInt, class_agnostic: bool, per_level: bool = False
    ) -> None:
        super().__init__(max_detections=max_detections, class_agnostic=class_agnostic, per_level=per_level)
        self.threshold, self.beta = threshold, beta

    def fuse(self, groups: Groups) -> Groups:
        return groups._replace(valid=keep_by_blocks(groups.boxes, groups.valid, self.threshold, self._overlap))

    def _overlap(self, one: Tensor, other: Tensor) -> Tensor:
        penalty = centre_distance(one, other)
        return pair_ious(one, other) - (penalty if self.beta == 1 else penalty**self.beta)


def centre_distance(one: Tensor, other: Tensor) -> Tensor:
    """[G, R, M]: squared distance of the centres over the squared diagonal of the smallest box around both, 0..1."""
    a, b = one[..., :, None, :].unbind(-1), other[..., None, :, :].unbind(-1)
    apart = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    width = torch.maximum(a[2], b[2]) - torch.minimum(a[0], b[0])
    height = torch.maximum(a[3], b[3]) - torch.minimum(a[1], b[1])
    diagonal = width**2 + height**2
    return apart / diagonal.clamp(min=torch.finfo(diagonal.dtype).tiny)
