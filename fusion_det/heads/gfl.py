"""GFL: one probability that is class and quality in one, and distances as distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fusion_det.boxes import aligned_ious
from fusion_det.heads.anchors import AnchorGrid, Anchors, anchor_cells, anchor_sizes
from fusion_det.heads.atss import assign_atss
from fusion_det.heads.dense import check_head, choose_candidates, flatten_levels, init_normal, prior_bias, shared_width
from fusion_det.heads.points import decode_distances, encode_distances, level_values
from fusion_det.heads.tower import Tower
from fusion_det.layers import LearnedScale
from fusion_det.losses.boxes import masked_giou_loss
from fusion_det.losses.distribution import distribution_focal_loss, expected_distance
from fusion_det.losses.focal import quality_focal_loss
from fusion_det.structures import LevelSpec, RawDetections, Targets

# Targets stay so far under the last bin of a distribution (the authors' code), so that there are two bins around each.
LAST_BIN_MARGIN = 0.1


class GFL(nn.Module):
    """Generalized focal loss (Li, Wang, Wu, Chen, Hu, Li, Tang, Yang; NeurIPS 2020, arXiv 2006.04388) on ATSS's samples.

    Two towers shared by all levels, one learned scale per level. Classes: quality focal loss towards the IoU of the predicted box, divided
    by the number of positive points. Each of the four distances, in strides, is the mean of a distribution over 0 ... ``reg_max``: GIoU
    loss on the box and distribution focal loss on the distances, both weighted by the point's best class probability and divided by the
    sum of these weights (both sums at least 1). ATSS sees one square anchor of ``anchor_scale`` strides around each point and the
    ``nearest`` of each level, on one or two levels as many more as give ``least_candidates``: of 9 alone its threshold (mean + standard
    deviation) leaves an object one or two. Constants are the paper's. Deviations: that, and points lie in the middle of their cells
    (``point_offset`` 0.5; the authors' code: 0); background in crowd regions is ignored.
    """

    def __init__(
        self,
        levels: Sequence[LevelSpec],
        num_classes: int,
        *,
        num_convs: NonNegativeInt,
        norm: Literal["none", "bn", "gn"],
        point_offset: Annotated[float, Field(ge=0, lt=1)],
        anchor_scale: PositiveFloat,
        nearest: PositiveInt,
        least_candidates: NonNegativeInt,
        reg_max: PositiveInt,
        quality_beta: NonNegativeFloat,
        box_loss_weight: PositiveFloat,
        distribution_loss_weight: NonNegativeFloat,
        prior_probability: Annotated[float, Field(gt=0, lt=1)],
        score_threshold: Annotated[float, Field(ge=0, lt=1)],
        candidates_per_level: PositiveInt,
    ) -> None:
        super().__init__()
        self.levels = check_head(levels, num_classes, owner="head gfl")
        channels, strides = shared_width(self.levels, owner="head gfl"), [level.stride for level in self.levels]
        squares = anchor_cells(anchor_sizes(strides, scale=anchor_scale, per_octave=1), [1.0], whole_pixels=False)
        self.anchors = AnchorGrid(squares, strides, offset=point_offset, regressed=False)
        self.nearest = max(nearest, math.ceil(least_candidates / len(self.levels)))
        self.strides, self.reg_max, self.quality_beta = strides, reg_max, quality_beta
        self.box_loss_weight, self.distribution_loss_weight = box_loss_weight, distribution_loss_weight
        self.score_threshold, self.candidates_per_level = score_threshold, candidates_per_level
        self.class_tower = Tower(channels, num_convs, norm, len(self.levels))
        self.box_tower = Tower(channels, num_convs, norm, len(self.levels))
        self.class_logits = init_normal(nn.Conv2d(channels, num_classes, 3, padding=1), prior_bias(prior_probability))
        self.box_bins = init_normal(nn.Conv2d(channels, 4 * (reg_max + 1), 3, padding=1))
        self.scales = nn.ModuleList(LearnedScale() for _ in self.levels)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps [B, C, H_i, W_i] -> class logits [B, P, classes] as the network computed them, logits of the four distances' bins
        [B, P, 4, reg_max + 1], float32."""
        logits = [self.class_logits(self.class_tower(x, level)) for level, x in enumerate(features)]
        bins = [self.scales[level](self.box_bins(self.box_tower(x, level))) for level, x in enumerate(features)]
        return flatten_levels(logits), flatten_levels(bins).float().unflatten(2, (4, self.reg_max + 1))

    def losses(self, features: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """``loss_cls``, ``loss_box``, ``loss_distribution``: scalars."""
        logits, bins = self(features)
        anchors, points, strides = self._geometry(features)
        found = assign_atss(anchors, targets, nearest=self.nearest)
        positive = found.labels >= 0
        boxes = decode_distances(points, expected_distance(bins) * strides)
        quality = aligned_ious(boxes.detach(), found.boxes) * positive
        class_loss = quality_focal_loss(logits, found.labels, quality, beta=self.quality_beta)
        weight = logits.detach().amax(dim=2).float().sigmoid() * positive
        total = weight.sum().clamp(min=1)
        distances = encode_distances(points, found.boxes) / strides
        bin_loss = distribution_focal_loss(bins, distances.clamp(min=0, max=self.reg_max - LAST_BIN_MARGIN))
        return {
            "loss_cls": (class_loss * ~found.ignored).sum() / positive.sum().clamp(min=1),
            "loss_box": self.box_loss_weight * masked_giou_loss(boxes, found.boxes, positive, weight) / total,
            "loss_distribution": self.distribution_loss_weight * (bin_loss.mean(dim=2) * weight).sum() / total,
        }

    def _geometry(self, features: Sequence[Tensor]) -> tuple[Anchors, Tensor, Tensor]:
        """Anchors, their centres [P, 2] and the strides of their levels [P, 1], in pixels of the network frame."""
        anchors = self.anchors([(x.shape[-2], x.shape[-1]) for x in features])
        points = (anchors.boxes[:, :2] + anchors.boxes[:, 2:]) / 2
        return anchors, points, level_values(self.strides, anchors.counts, points.device)[:, None]

    def predict(self, features: Sequence[Tensor], sizes: Tensor) -> RawDetections:
        """Candidates of all levels; ``sizes`` [B, 2] are the pictures' heights and widths in the network frame."""
        logits, bins = self(features)
        anchors, points, strides = self._geometry(features)
        boxes = decode_distances(points, expected_distance(bins) * strides)
        scores = logits.float().sigmoid()
        return choose_candidates(
            boxes, scores, anchors.counts, sizes, score_threshold=self.score_threshold, per_level=self.candidates_per_level
        )
