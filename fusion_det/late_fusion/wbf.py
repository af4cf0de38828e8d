"""Weighted boxes fusion."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from fusion_det.boxes import exceeds, pair_ious
from fusion_det.config.types import UnitInterval
from fusion_det.late_fusion.base import Groups, LateFusion


class WBF(LateFusion):
    """Candidates in order of score join the fused box that they overlap most (by more than ``iou_threshold``), or start one.

    Solovyev, Wang and Gabruseva 2021 (Image and Vision Computing, arXiv 1910.13302). A fused box is the mean of its n members weighted
    by score, renewed with every member. Scores s of members include the weight w of their source; of T sources, whose weights sum to
    W, the fused score is by ``confidence``

    - ``avg``: mean(s) * min(T, n) / W, eq. (5): what few sources saw counts less; ``avg_overflow``: mean(s) * n / W, eq. (6), which
      can exceed 1;
    - ``max``: max(s) / max(w);
    - ``box_and_model_avg``: sum(s) / sum(w of the members) * sum(w of the sources among them) / W;
    - ``absent_model_aware_avg``: sum(s) / (sum(w of the members) + sum(w of the sources not among them)).

    The four names are those of the authors' package, whose results these are (tested against an independent twin). Deviations: boxes
    without area stay as they are, where the package leaves them out; equal scores are ordered by the boxes.

    Each candidate meets boxes that all better ones have moved, so there is a loop over ranks, each step treating all images and classes.
    """

    def __init__(
        self,
        *,
        iou_threshold: UnitInterval,
        confidence: Literal["avg", "avg_overflow", "max", "box_and_model_avg", "absent_model_aware_avg"],
        max_detections: PositiveInt,
        class_agnostic: bool,
        per_level: bool = False,
    ) -> None:
        super().__init__(max_detections=max_detections, class_agnostic=class_agnostic, per_level=per_level)
        self.iou_threshold, self.confidence = iou_threshold, confidence

    def fuse(self, groups: Groups) -> Groups:
        boxes, totals, cluster = self._cluster(groups)
        first = cluster == torch.arange(cluster.shape[1], device=cluster.device)  # a cluster is named by the slot of its first, best member
        return groups._replace(boxes=boxes, scores=self._confidences(groups, totals, cluster), valid=groups.valid & first)

    def _cluster(self, groups: Groups) -> tuple[Tensor, Tensor, Tensor]:
        """Fused boxes [G, M, 4] and summed scores [G, M] in the slot of the first member; the cluster int64 [G, M] of each box."""
        count, width = groups.scores.shape
        rows = torch.arange(count, device=groups.scores.device)
        moments = torch.cat([groups.boxes * groups.scores[..., None], groups.scores[..., None]], dim=2)  # [G, M, 5]
        sums, fused = torch.zeros_like(moments), torch.zeros_like(groups.boxes)
        cluster = torch.arange(width, device=rows.device).repeat(count, 1)
        for rank in range(width):
            box, target = groups.boxes[:, rank], cluster[:, rank]
            if rank:
                best, slot = pair_ious(box[:, None], fused[:, :rank])[:, 0].max(1)
                target = torch.where(exceeds(best, self.iou_threshold), slot, target)
                cluster[:, rank] = target
            total = sums[rows, target] + moments[:, rank]
            sums[rows, target] = total
            mean = torch.where(total[:, 4:] > 0, total[:, :4] / total[:, 4:], fused[rows, target])
            fused[rows, target] = torch.where((target == rank)[:, None], box, mean)
        return fused, sums[..., 4], cluster

    def _confidences(self, groups: Groups, totals: Tensor, cluster: Tensor) -> Tensor:
        """[G, M]: the fused score in the slot of the first member."""
        weights = groups.weights
        if self.confidence == "max":
            return groups.scores  # the first member is the best, and the largest weight is 1
        row, slot = groups.valid.nonzero(as_tuple=True)
        counts = totals.new_zeros(*cluster.shape, len(weights))  # members of each source; whole numbers, so their order does not matter
        counts.index_put_((row, cluster[row, slot], groups.sources[row, slot]), counts.new_ones(()), accumulate=True)
        members = counts.sum(2).clamp(min=1)
        if self.confidence == "avg_overflow":
            return totals / weights.sum()
        if self.confidence == "avg":
            return totals / members * members.clamp(max=len(weights)) / weights.sum()
        shares, present = counts @ weights, (counts > 0).to(weights.dtype) @ weights
        if self.confidence == "box_and_model_avg":
            return totals / shares.clamp(min=torch.finfo(shares.dtype).tiny) * present / weights.sum()
        return totals / (shares + weights.sum() - present)
