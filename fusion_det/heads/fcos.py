"""FCOS: every point of every level predicts a class, four distances and its centre-ness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.heads.assignment import Assignment
from fusion_det.heads.dense import check_head, choose_candidates, flatten_levels, init_normal, prior_bias, shared_width
from fusion_det.heads.fcos_assigner import assign_points
from fusion_det.heads.points import CellStride, decode_distances, grid_points, level_values
from fusion_det.heads.tower import Tower
from fusion_det.layers import LearnedScale
from fusion_det.losses.boxes import masked_giou_loss
from fusion_det.losses.focal import focal_loss
from fusion_det.structures import LevelSpec, RawDetections, Targets


class FCOS(nn.Module):
    """Fully convolutional one-stage head (Tian, Shen, Chen, He; ICCV 2019, arXiv 1904.01355; improved in arXiv 2006.09214).

    Towers shared by all levels, one learned scale per level; focal loss over classes, GIoU loss over boxes weighted by centre-ness
    targets, binary cross-entropy over centre-ness (predicted beside the boxes, as in the improved version). A level of stride s takes
    objects whose largest distance lies in (range_factor * s / 2, range_factor * s); the finest level starts at 0, the coarsest has no
    end: 8 gives the paper's 64, 128, 256, 512 on strides 8 to 128. All losses are divided by the number of positive points (at least 1);
    the box loss by the sum of the centre-ness targets. Score of a detection: sqrt(class probability * centre-ness).
    Deviation: normalises distances by the stride always (``norm_reg_targets`` of the reference code).
    torchvision's FCOS is ``distance=relu box_weight=uniform point_offset=0 cell_stride=measured`` with all scales at 1.
    """

    def __init__(
        self,
        levels: Sequence[LevelSpec],
        num_classes: int,
        *,
        num_convs: NonNegativeInt,
        norm: Literal["none", "bn", "gn"],
        point_offset: Annotated[float, Field(ge=0, lt=1)],
        range_factor: PositiveFloat,
        center_radius: NonNegativeFloat,
        distance: Literal["exp", "relu"],
        box_weight: Literal["centerness", "uniform"],
        focal_alpha: Annotated[float, Field(ge=0, le=1)],
        focal_gamma: NonNegativeFloat,
        prior_probability: Annotated[float, Field(gt=0, lt=1)],
        score_threshold: Annotated[float, Field(ge=0, lt=1)],
        candidates_per_level: PositiveInt,
        cell_stride: Literal["level", "measured"] = "level",
    ) -> None:
        super().__init__()
        self.levels = check_head(levels, num_classes, owner="head fcos", one_per_stride=True)  # a range of sizes belongs to one
        channels = shared_width(self.levels, owner="head fcos")
        self.num_classes, self.strides = num_classes, [level.stride for level in self.levels]
        self.point_offset, self.range_factor, self.center_radius = point_offset, range_factor, center_radius
        self.cell_stride: CellStride = cell_stride
        self.distance, self.box_weight = distance, box_weight
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.score_threshold, self.candidates_per_level = score_threshold, candidates_per_level
        self.class_tower = Tower(channels, num_convs, norm, len(self.levels))
        self.box_tower = Tower(channels, num_convs, norm, len(self.levels))
        self.class_logits = init_normal(nn.Conv2d(channels, num_classes, 3, padding=1), prior_bias(prior_probability))
        self.box_distances = init_normal(nn.Conv2d(channels, 4, 3, padding=1))
        self.centerness = init_normal(nn.Conv2d(channels, 1, 3, padding=1))
        self.scales = nn.ModuleList(LearnedScale() for _ in self.levels)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Maps [B, C, H_i, W_i] -> class logits [B, P, classes] as the network computed them; float32: distances in strides [B, P, 4]
        (l, t, r, b), centre-ness logits [B, P]."""
        logits, distances, centerness = [], [], []
        for level, (x, scale) in enumerate(zip(features, self.scales, strict=True)):
            box_features = self.box_tower(x, level)
            logits.append(self.class_logits(self.class_tower(x, level)))
            distances.append(scale(self.box_distances(box_features)))
            centerness.append(self.centerness(box_features))
        raw = flatten_levels(distances).float()
        # The clamp keeps exp finite in the first steps of a run with a high learning rate: e^8 strides is larger than any picture.
        positive = torch.relu(raw) if self.distance == "relu" else raw.clamp(max=8.0).exp()
        return flatten_levels(logits), positive, flatten_levels(centerness).float()[..., 0]

    def losses(self, features: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """``loss_cls``, ``loss_box``, ``loss_centerness``: scalars."""
        logits, distances, centerness = self(features)
        points, strides, low, high = self._points(features)
        assignment = assign_points(points, strides, low, high, targets, center_radius=self.center_radius)
        positive = assignment.labels >= 0
        num_positive = positive.sum().clamp(min=1)
        quality = centerness_targets(points, assignment.boxes, positive)
        weight = quality if self.box_weight == "centerness" else positive.float()
        boxes = decode_distances(points, distances * strides[:, None])
        return {
            "loss_cls": self._class_loss(logits, assignment) / num_positive,
            "loss_box": masked_giou_loss(boxes, assignment.boxes, positive, weight) / weight.sum().clamp(min=1e-6),
            "loss_centerness": F.binary_cross_entropy_with_logits(centerness, quality, positive.float(), reduction="sum") / num_positive,
        }

    def _class_loss(self, logits: Tensor, assignment: Assignment) -> Tensor:
        losses = focal_loss(logits, assignment.labels, alpha=self.focal_alpha, gamma=self.focal_gamma)
        return (losses * ~assignment.ignored).sum()

    def _points(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Points [P, 2] with stride, lower and upper range [P] of their level, in pixels."""
        shapes = [(x.shape[-2], x.shape[-1]) for x in features]
        device, counts = features[0].device, [height * width for height, width in shapes]
        points, _ = grid_points(shapes, self.strides, device, offset=self.point_offset, cell_stride=self.cell_stride)
        ends = [self.range_factor * stride for stride in self.strides[:-1]]
        low, high = level_values([0.0, *ends], counts, device), level_values([*ends, math.inf], counts, device)
        return points, level_values(self.strides, counts, device), low, high

    def predict(self, features: Sequence[Tensor], sizes: Tensor) -> RawDetections:
        """Candidates of all levels; ``sizes`` [B, 2] are the pictures' heights and widths in the network frame."""
        logits, distances, centerness = self(features)
        points, strides, _, _ = self._points(features)
        boxes = decode_distances(points, distances * strides[:, None])
        scores = (logits.float().sigmoid() * centerness.sigmoid()[..., None]).sqrt()
        counts = [x.shape[-2] * x.shape[-1] for x in features]
        return choose_candidates(boxes, scores, counts, sizes, score_threshold=self.score_threshold, per_level=self.candidates_per_level)


def centerness_targets(points: Tensor, boxes: Tensor, positive: Tensor) -> Tensor:
    """``sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))`` (equation 3 of the paper), 0 where not positive.

    ``points`` [P, 2], ``boxes`` [B, P, 4] xyxy, ``positive`` [B, P] -> [B, P].
    """
    left_top, right_bottom = points - boxes[..., :2], boxes[..., 2:] - points  # [B, P, 2]
    ratio = torch.minimum(left_top, right_bottom) / torch.maximum(left_top, right_bottom).clamp(min=1e-6)
    return torch.where(positive, ratio.clamp(min=0).prod(dim=-1).sqrt(), 0.0)
