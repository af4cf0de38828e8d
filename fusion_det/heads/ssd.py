"""SSD: each level predicts from its own convolutions, for default boxes of its own scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.heads.anchors import Anchors
from fusion_det.heads.assignment import Assignment
from fusion_det.heads.box_coder import BoxCoder
from fusion_det.heads.box_loss import BoxLoss, BoxRegressionLoss
from fusion_det.heads.default_boxes import DefaultBoxes
from fusion_det.heads.dense import check_head, choose_per_class, flatten_anchors
from fusion_det.heads.matching import match_anchors
from fusion_det.heads.sampling import hardest
from fusion_det.heads.tower import Tower
from fusion_det.layers import NormKind
from fusion_det.structures import LevelSpec, RawDetections, Targets


class SSD(nn.Module):
    """Single shot multibox detector (Liu, Anguelov, Erhan, Szegedy, Reed, Fu, Berg; ECCV 2016, arXiv 1512.02325).

    Two 3x3 convolutions per level, one for classes and one for boxes, nothing shared, widths may differ. Before each of them ``num_convs``
    further ones with ``norm`` and ReLU; the paper has none, as its maps come from a ReLU (a pyramid's do not: its last convolution and
    the head's would be one linear map).
    Every object takes its best default box, then every default box that overlaps an object by ``positive_overlap`` or more learns the
    one it overlaps most. Softmax cross-entropy over classes and background, of background only ``negatives_per_positive`` times as many
    boxes as positives, those of the highest loss in each image; smooth L1 on deltas (``smooth_l1_beta`` 1, or another ``box_loss``); both
    divided by the positives of the batch (at least 1). Default boxes: see ``default_boxes.py``.
    Deviations: IoU of 0.5 itself is positive (torchvision; the paper says over 0.5); an image never gets more negatives than it has
    background, where torchvision counts positives twice; background mostly inside a crowd is no negative. An image without objects
    teaches nothing, as in the paper.

    Class 0 of the logits is background, so torchvision's weights fit as they are, for num_classes = torchvision's less one:
    ``class_logits.{i}`` = ``head.classification_head.module_list.{i}``, ``box_deltas.{i}`` = ``head.regression_head.module_list.{i}``.
    """

    def __init__(
        self,
        levels: Sequence[LevelSpec],
        num_classes: int,
        *,
        num_convs: NonNegativeInt,
        norm: NormKind,
        min_sizes: list[PositiveFloat] | None,
        max_sizes: list[PositiveFloat] | None,
        steps: list[PositiveFloat] | None,
        aspect_ratios: list[list[PositiveFloat]],
        scale: PositiveFloat,
        clip: Literal["none", "size", "corners"],
        picture_size: PositiveFloat,
        box_weights: list[PositiveFloat],
        positive_overlap: Annotated[float, Field(gt=0, le=1)],
        crowd_overlap: Annotated[float, Field(gt=0, le=1)],
        negatives_per_positive: NonNegativeFloat,
        box_loss: BoxLoss,
        smooth_l1_beta: PositiveFloat,
        box_loss_weight: PositiveFloat,
        score_threshold: Annotated[float, Field(ge=0, lt=1)],
        candidates_per_class: PositiveInt,
    ) -> None:
        super().__init__()
        self.levels = check_head(levels, num_classes, owner="head ssd")
        self.anchors = DefaultBoxes(
            self.levels, min_sizes=min_sizes, max_sizes=max_sizes, steps=steps, aspect_ratios=aspect_ratios,
            scale=scale, clip=clip, picture_size=picture_size,
        )  # fmt: skip
        self.coder, self.columns = BoxCoder(box_weights), num_classes + 1
        self.positive_overlap, self.crowd_overlap = positive_overlap, crowd_overlap
        self.negatives_per_positive = negatives_per_positive
        self.box_loss = BoxRegressionLoss(self.coder, box_loss, beta=smooth_l1_beta, weight=box_loss_weight)
        self.score_threshold, self.candidates_per_class = score_threshold, candidates_per_class
        self.class_towers = nn.ModuleList(Tower(level.channels, num_convs, norm, 1) for level in self.levels)
        self.box_towers = nn.ModuleList(Tower(level.channels, num_convs, norm, 1) for level in self.levels)
        sizes = list(zip(self.levels, self.anchors.per_cell, strict=True))
        self.class_logits = nn.ModuleList(_conv(level.channels, shapes * self.columns) for level, shapes in sizes)
        self.box_deltas = nn.ModuleList(_conv(level.channels, shapes * 4) for level, shapes in sizes)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps [B, C_i, H_i, W_i] -> logits [B, A, 1 + classes] (background first) and box deltas [B, A, 4], both float32."""
        logits = [conv(tower(x, 0)) for conv, tower, x in zip(self.class_logits, self.class_towers, features, strict=True)]
        deltas = [conv(tower(x, 0)) for conv, tower, x in zip(self.box_deltas, self.box_towers, features, strict=True)]
        return flatten_anchors(logits, self.columns).float(), flatten_anchors(deltas, 4).float()

    def losses(self, features: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """``loss_cls``, ``loss_box``: scalars."""
        logits, deltas = self(features)
        anchors = self._anchors(features).boxes
        found = match_anchors(
            anchors, targets, positive_overlap=self.positive_overlap, negative_overlap=self.positive_overlap,
            rescue="best", crowd_overlap=self.crowd_overlap,
        )  # fmt: skip
        positive = found.labels >= 0
        number = positive.sum().clamp(min=1)
        equally = torch.ones_like(positive, dtype=deltas.dtype)
        return {
            "loss_cls": self._class_loss(logits, found, positive) / number,
            "loss_box": self.box_loss(deltas, anchors, found.boxes, positive, equally) / number,
        }

    def _class_loss(self, logits: Tensor, found: Assignment, positive: Tensor) -> Tensor:
        losses = F.cross_entropy(logits.flatten(0, 1), (found.labels + 1).flatten(), reduction="none").view_as(found.labels)
        negatives = hardest(losses, ~positive & ~found.ignored, self.negatives_per_positive * positive.sum(dim=1))
        return (losses * (positive | negatives)).sum()

    def _anchors(self, features: Sequence[Tensor]) -> Anchors:
        return self.anchors([(x.shape[-2], x.shape[-1]) for x in features])

    def predict(self, features: Sequence[Tensor], sizes: Tensor) -> RawDetections:
        """Candidates per class; ``sizes`` [B, 2] are the pictures' heights and widths in the network frame."""
        logits, deltas = self(features)
        anchors = self._anchors(features)
        boxes, scores = self.coder.decode(deltas, anchors.boxes), logits.softmax(dim=2)[..., 1:]
        return choose_per_class(
            boxes, scores, anchors.levels, sizes, score_threshold=self.score_threshold, per_class=self.candidates_per_class
        )


def _conv(channels: int, out_channels: int) -> nn.Conv2d:
    """3x3 convolution, xavier uniform weights (the official code and torchvision), zero bias."""
    conv = nn.Conv2d(channels, out_channels, 3, padding=1)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv
