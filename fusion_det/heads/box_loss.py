"""Losses of predicted deltas against the objects that anchors learn."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fusion_det.heads.box_coder import BoxCoder
from fusion_det.losses.boxes import masked_giou_loss, masked_smooth_l1_loss

BoxLoss = Literal["l1", "smooth_l1", "giou"]


class BoxRegressionLoss:
    """L1 or smooth L1 of deltas (Girshick, ICCV 2015, arXiv 1504.08083), or GIoU of the boxes they stand for (arXiv 1902.09630).

    ``beta``: where smooth L1 turns from square to straight; ``weight``: factor on the sum.
    """

    def __init__(self, coder: BoxCoder, kind: BoxLoss, *, beta: float, weight: float) -> None:
        self.coder, self.kind, self.weight = coder, kind, weight
        self.beta = beta if kind == "smooth_l1" else 0.0

    def __call__(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, positive: Tensor, weight: Tensor) -> Tensor:
        """Weighted sum over positive anchors, a scalar.

        ``deltas`` [B, A, 4], ``anchors`` [A, 4] and objects ``boxes`` [B, A, 4] xyxy in one frame, ``positive`` bool [B, A], ``weight``
        [B, A].
        """
        if self.kind == "giou":
            return self.weight * masked_giou_loss(self.coder.decode(deltas, anchors), boxes, positive, weight)
        # Background has no box to encode; its own anchor stands in, so that nothing infinite meets the mask.
        target = self.coder.encode(boxes.where(positive[..., None], anchors), anchors)
        return self.weight * masked_smooth_l1_loss(deltas, target, positive, weight, beta=self.beta)
