"""RetinaNet: nine anchors in every cell, each with class probabilities and a shifted box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fusion_det.heads.anchors import AnchorGrid, Anchors, anchor_cells, anchor_sizes
from fusion_det.heads.box_coder import BoxCoder
from fusion_det.heads.box_loss import BoxLoss, BoxRegressionLoss
from fusion_det.heads.dense import check_head, choose_candidates, flatten_anchors, init_normal, prior_bias, shared_width
from fusion_det.heads.matching import match_anchors
from fusion_det.heads.tower import Tower
from fusion_det.losses.focal import focal_loss
from fusion_det.structures import LevelSpec, RawDetections, Targets


class RetinaNet(nn.Module):
    """Focal loss on anchors of three sizes and three ratios per level (Lin, Goyal, Girshick, He, Dollár; ICCV 2017, arXiv 1708.02002).

    Two towers of convolutions shared by all levels. Anchors learn the object that they overlap by ``positive_overlap`` or more; with
    ``rescue`` those that an object overlaps best learn in any case. Losses are divided by the number of positive anchors (at least 1) of
    each image and averaged over images (``average=image``, torchvision), or by that of the whole batch (``batch``, the paper).
    The YAML holds torchvision's constants; the paper's box loss is smooth L1. Deviation: no loss for background mostly inside a crowd.

    torchvision's weights: ``class_tower.{3i}`` = ``head.classification_head.conv.{i}.0``, ``class_tower.{3i+1}`` = ``...conv.{i}.1`` (the
    second version's GroupNorm; the convolutions before it have no bias: 0 here), ``class_logits`` = ``...cls_logits``; ``box_tower`` and
    ``box_deltas`` = ``head.regression_head.conv`` and ``bbox_reg`` in the same way. Channel ``a * K + c`` of ``cls_logits`` is class c of
    the cell's anchor a in both; torchvision's published weights have a class 0 that is never taught, which a converter drops.
    """

    def __init__(
        self,
        levels: Sequence[LevelSpec],
        num_classes: int,
        *,
        num_convs: NonNegativeInt,
        norm: Literal["none", "bn", "gn"],
        anchor_scale: PositiveFloat,
        scales_per_octave: PositiveInt,
        anchor_sizes: list[list[PositiveFloat]] | None,
        aspect_ratios: list[PositiveFloat],
        whole_pixels: bool,
        anchor_offset: Annotated[float, Field(ge=0, lt=1)],
        cell_stride: Literal["level", "measured"],
        positive_overlap: Annotated[float, Field(gt=0, le=1)],
        negative_overlap: Annotated[float, Field(gt=0, le=1)],
        rescue: bool,
        crowd_overlap: Annotated[float, Field(gt=0, le=1)],
        average: Literal["image", "batch"],
        focal_alpha: Annotated[float, Field(ge=0, le=1)],
        focal_gamma: NonNegativeFloat,
        box_loss: BoxLoss,
        smooth_l1_beta: PositiveFloat,
        box_loss_weight: PositiveFloat,
        prior_probability: Annotated[float, Field(gt=0, lt=1)],
        score_threshold: Annotated[float, Field(ge=0, lt=1)],
        candidates_per_level: PositiveInt,
    ) -> None:
        super().__init__()
        self.levels = check_head(levels, num_classes, owner="head retinanet")
        channels, strides = shared_width(self.levels, owner="head retinanet"), [level.stride for level in self.levels]
        if negative_overlap > positive_overlap:
            raise ValueError(f"head retinanet: expected negative_overlap <= positive_overlap, got {negative_overlap} > {positive_overlap}")
        sizes = _sizes(self.levels, anchor_sizes, anchor_scale, scales_per_octave)
        cells = anchor_cells(sizes, aspect_ratios, whole_pixels=whole_pixels)
        self.anchors = AnchorGrid(cells, strides, offset=anchor_offset, cell_stride=cell_stride)
        self.coder, self.num_classes = BoxCoder(), num_classes
        self.matching = {
            "positive_overlap": positive_overlap, "negative_overlap": negative_overlap, "crowd_overlap": crowd_overlap,
        }  # fmt: skip
        self.rescue: Literal["ties", "none"] = "ties" if rescue else "none"
        self.average, self.focal_alpha, self.focal_gamma = average, focal_alpha, focal_gamma
        self.box_loss = BoxRegressionLoss(self.coder, box_loss, beta=smooth_l1_beta, weight=box_loss_weight)
        self.score_threshold, self.candidates_per_level = score_threshold, candidates_per_level
        shapes = len(cells[0])
        self.class_tower = Tower(channels, num_convs, norm, len(self.levels))
        self.box_tower = Tower(channels, num_convs, norm, len(self.levels))
        self.class_logits = init_normal(nn.Conv2d(channels, shapes * num_classes, 3, padding=1), prior_bias(prior_probability))
        self.box_deltas = init_normal(nn.Conv2d(channels, shapes * 4, 3, padding=1))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps [B, C, H_i, W_i] -> class logits [B, A, classes] as the network computed them and box deltas [B, A, 4], float32."""
        logits = [self.class_logits(self.class_tower(x, level)) for level, x in enumerate(features)]
        deltas = [self.box_deltas(self.box_tower(x, level)) for level, x in enumerate(features)]
        return flatten_anchors(logits, self.num_classes), flatten_anchors(deltas, 4).float()

    def losses(self, features: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """``loss_cls``, ``loss_box``: scalars."""
        logits, deltas = self(features)
        anchors = self._anchors(features).boxes
        found = match_anchors(anchors, targets, rescue=self.rescue, **self.matching)
        positive = found.labels >= 0
        share = self._share(positive)
        class_loss = focal_loss(logits, found.labels, alpha=self.focal_alpha, gamma=self.focal_gamma)
        return {
            "loss_cls": (class_loss * ~found.ignored * share).sum(),
            "loss_box": self.box_loss(deltas, anchors, found.boxes, positive, share.expand_as(class_loss)),
        }

    def _share(self, positive: Tensor) -> Tensor:
        """What a loss of each image counts, [B, 1]: one over the number of positive anchors, and over the images if averaged over them."""
        if self.average == "batch":
            return (1 / positive.sum().clamp(min=1)).expand(positive.shape[0], 1)
        return 1 / (positive.sum(dim=1, keepdim=True).clamp(min=1) * positive.shape[0])

    def _anchors(self, features: Sequence[Tensor]) -> Anchors:
        return self.anchors([(x.shape[-2], x.shape[-1]) for x in features])

    def predict(self, features: Sequence[Tensor], sizes: Tensor) -> RawDetections:
        """Candidates of all levels; ``sizes`` [B, 2] are the pictures' heights and widths in the network frame."""
        logits, deltas = self(features)
        anchors = self._anchors(features)
        boxes = self.coder.decode(deltas, anchors.boxes)
        scores = logits.float().sigmoid()
        return choose_candidates(
            boxes, scores, anchors.counts, sizes, score_threshold=self.score_threshold, per_level=self.candidates_per_level
        )


def _sizes(levels: Sequence[LevelSpec], given: list[list[float]] | None, scale: float, per_octave: int) -> list[list[float]]:
    """Anchor sizes per level in pixels, as many on each level."""
    if given is None:
        return anchor_sizes([level.stride for level in levels], scale=scale, per_octave=per_octave)
    if len(given) != len(levels) or len({len(sizes) for sizes in given}) != 1 or not given[0]:
        raise ValueError(
            f"head retinanet: expected anchor_sizes for the {len(levels)} levels {[level.name for level in levels]}, equally many on each, "
            f"got {given}; null derives them from the strides"
        )
    return given
