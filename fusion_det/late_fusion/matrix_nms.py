"""Matrix NMS: Soft-NMS in one go."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from fusion_det.boxes import pair_ious
from fusion_det.config.types import UnitInterval
from fusion_det.late_fusion.base import Groups, LateFusion
from fusion_det.suppression import blocks


class MatrixNMS(LateFusion):
    """score_j *= min over better i of f(IoU_ij) / f(m_i), m_i being the largest IoU of i with a box better than i.

    Wang et al. 2020 (SOLOv2, NeurIPS, arXiv 2003.10152), section on Matrix NMS: the chance that i itself was suppressed is read off its
    strongest rival, so nothing has to wait for anything. ``gaussian`` f = exp(-``sigma`` IoU^2) (sigma 2 in the paper; note that
    Soft-NMS divides by its sigma), ``linear`` f = 1 - IoU.

    Deviations: IoU of boxes, not masks; f(m_i) is kept away from zero, so that identical boxes do not make 0 / 0.
    """

    def __init__(
        self,
        *,
        method: Literal["linear", "gaussian"],
        sigma: PositiveFloat,
        score_threshold: UnitInterval,
        max_detections: PositiveInt,
        class_agnostic: bool,
        per_level: bool = False,
    ) -> None:
        super().__init__(max_detections=max_detections, class_agnostic=class_agnostic, per_level=per_level)
        self.method, self.sigma, self.score_threshold = method, sigma, score_threshold

    def fuse(self, groups: Groups) -> Groups:
        boxes = groups.boxes
        rival = torch.zeros_like(groups.scores)  # [G, M], m of the docstring
        parts = list(blocks(boxes))
        for block in parts:
            iou = _with_worse(boxes, block)
            rival = torch.maximum(rival, iou.amax(1))
        decay = torch.ones_like(groups.scores)
        for block in parts:
            iou = iou if len(parts) == 1 else _with_worse(boxes, block)
            decay = torch.minimum(decay, self._ratio(iou, rival[:, block, None]).amin(1))
        scores = groups.scores * decay
        return groups._replace(scores=scores, valid=groups.valid & (scores >= self.score_threshold))

    def _ratio(self, iou: Tensor, rival: Tensor) -> Tensor:
        """f(IoU) / f(m) [G, R, M]; at least 1 where IoU is 0, so that pairs in the wrong order do not count."""
        if self.method == "gaussian":
            return torch.exp(self.sigma * (rival**2 - iou**2))
        return (1 - iou) / (1 - rival).clamp(min=torch.finfo(iou.dtype).eps)


def _with_worse(boxes: Tensor, block: slice) -> Tensor:
    """IoU [G, R, M] of the ranks in ``block`` with all ranks below them, else 0."""
    return pair_ious(boxes[:, block], boxes).triu_(block.start + 1)
