"""Faster R-CNN: regions first, then what is in each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.config.types import UnitInterval
from fusion_det.heads.box_coder import BoxCoder
from fusion_det.heads.dense import check_head
from fusion_det.heads.matching import match_anchors
from fusion_det.heads.proposals import Proposals
from fusion_det.heads.random_sampling import Sample, sample, take_rows
from fusion_det.heads.roi_levels import RoIPool
from fusion_det.losses.boxes import masked_smooth_l1_loss
from fusion_det.structures import FusionSite, LevelSpec, RawDetections, Targets

# Sides of a detection in pixels (torchvision's).
SMALLEST = 1e-2


class Lesson(NamedTuple):
    """S proposals of each image and what each is to learn."""

    boxes: Tensor
    """float32 [B, S, 4]."""
    labels: Tensor
    """int64 [B, S]: 0 for background, 1 + class index."""
    objects: Tensor
    """float32 [B, S, 4]: the matched object's box; the proposal's own where there is none."""
    taught: Tensor
    """bool [B, S]: false for slots that could not be filled."""


class FasterRCNN(nn.Module):
    """Two-stage detector (Ren, He, Girshick, Sun; NeurIPS 2015, arXiv 1506.01497; on a pyramid: Lin et al., CVPR 2017, arXiv 1612.03144).

    ``rpn`` proposes: :class:`.rpn.RPN`, or HyperNet's :class:`.light_proposals.LightProposals`, or another part with their ``learn`` and
    ``find``. ``pool`` and ``roi_fusion`` make one map of each proposal (:mod:`fusion_det.heads.roi_fusion`), ``box_head`` a vector, from
    which come the logits of background and all classes and the box deltas, per class or one for all (``class_agnostic``). Proposals
    of an IoU of ``positive_overlap`` or more with an object learn it, under ``negative_overlap`` they are background; ``samples`` of each
    image are drawn after the objects themselves were added (``add_objects``). Cross-entropy and smooth L1 (``smooth_l1_beta`` 0: plain
    L1) are divided by the number drawn in the batch. The YAML holds torchvision's constants; the weights start as in Fast R-CNN.
    Deviation: background mostly inside a crowd region is no negative.

    With two ``rounds`` prediction looks again at where each proposal's best class has moved it, and the candidates of both go to the late
    fusion (Gidaris and Komodakis, ICCV 2015, arXiv 1505.01749; ION).

    A detection's level is the one that FPN's rule gives its proposal, also where ``roi_fusion`` looks at several.

    torchvision's weights, for num_classes = torchvision's less one: see :class:`.rpn.RPN`, :class:`.box_head.BoxHead`; ``class_logits`` =
    ``roi_heads.box_predictor.cls_score``, ``box_deltas`` = ``roi_heads.box_predictor.bbox_pred`` (its rows of background are kept, unused).
    """

    owner = "head faster_rcnn"

    def __init__(
        self,
        levels: Sequence[LevelSpec],
        num_classes: int,
        *,
        rpn: Callable[..., Any],
        pool: Callable[..., Any],
        roi_fusion: Callable[..., Any],
        box_head: Callable[..., Any],
        class_agnostic: bool,
        positive_overlap: Annotated[float, Field(gt=0, le=1)],
        negative_overlap: Annotated[float, Field(gt=0, le=1)],
        crowd_overlap: Annotated[float, Field(gt=0, le=1)],
        add_objects: bool,
        samples: PositiveInt,
        positive_share: UnitInterval,
        box_weights: list[PositiveFloat],
        smooth_l1_beta: NonNegativeFloat,
        box_loss_weight: PositiveFloat,
        score_threshold: Annotated[float, Field(ge=0, lt=1)],
        candidates: PositiveInt,
        rounds: PositiveInt = 1,
    ) -> None:
        super().__init__()
        self.levels = check_head(levels, num_classes, owner=self.owner)
        if negative_overlap > positive_overlap:
            raise ValueError(f"{self.owner}: expected negative_overlap <= positive_overlap, got {negative_overlap} > {positive_overlap}")
        self.rpn = rpn(self.levels)
        self.pool: RoIPool = pool(self.levels)
        self.roi_fusion = roi_fusion(self.pool)
        self.box_head = box_head(self.roi_fusion.out_channels, self.roi_fusion.bins, self.roi_fusion.linear_layers)
        self.coder, self.num_classes = BoxCoder(box_weights), num_classes
        self.matching = {
            "positive_overlap": positive_overlap, "negative_overlap": negative_overlap, "crowd_overlap": crowd_overlap,
        }  # fmt: skip
        self.add_objects, self.samples, self.positive_share = add_objects, samples, positive_share
        self.smooth_l1_beta, self.box_loss_weight = smooth_l1_beta, box_loss_weight
        self.score_threshold, self.candidates, self.rounds = score_threshold, candidates, rounds
        self.box_kinds = 1 if class_agnostic else num_classes + 1
        self.class_logits = _linear(self.box_head.out_features, num_classes + 1, 0.01)
        self.box_deltas = _linear(self.box_head.out_features, 4 * self.box_kinds, 0.001)

    def forward(self, features: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps and proposals [B, R, 4] -> logits [B, R, 1 + classes], deltas [B, R, kinds, 4], both float32, and level index [B, R]."""
        index = self.pool.assign(boxes)
        vectors = self.box_head(self.roi_fusion(features, boxes, index))
        logits = self.class_logits(vectors).float().view(*boxes.shape[:2], -1)
        return logits, self.box_deltas(vectors).float().view(*boxes.shape[:2], self.box_kinds, 4), index

    def losses(self, features: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """``loss_rpn_cls``, ``loss_rpn_box``, ``loss_cls``, ``loss_box``: scalars."""
        self._check(features)
        losses, proposals = self.rpn.learn(features, targets, self._whole_input(features))
        lesson = self._choose(proposals, targets)
        logits, deltas, _ = self(features, lesson.boxes)
        number = lesson.taught.sum().clamp(min=1)
        class_loss = F.cross_entropy(logits.flatten(0, 1), lesson.labels.flatten(), reduction="none").view_as(lesson.labels)
        losses["loss_cls"] = (class_loss * lesson.taught).sum() / number
        target = self.coder.encode(lesson.objects, lesson.boxes)
        positive = lesson.taught & (lesson.labels > 0)
        box_loss = masked_smooth_l1_loss(
            self._of_class(deltas, lesson.labels), target, positive, torch.ones_like(class_loss), beta=self.smooth_l1_beta
        )
        losses["loss_box"] = self.box_loss_weight * box_loss / number
        return losses

    @torch.no_grad()
    def _choose(self, proposals: Proposals, targets: Targets) -> Lesson:
        """The proposals to learn from. Slots without one hold a box of one pixel, so that everything stays finite."""
        boxes, valid = proposals.boxes, proposals.valid
        if self.add_objects:
            boxes = torch.cat([boxes, targets.boxes], dim=1)
            valid = torch.cat([valid, targets.valid], dim=1)
        found = match_anchors(boxes, targets, rescue="none", **self.matching)
        positive = valid & (found.labels >= 0)
        drawn = self._draw(boxes, positive, valid & ~positive & ~found.ignored, targets)
        pixel = torch.arange(4, device=boxes.device, dtype=boxes.dtype).div(2, rounding_mode="floor")  # (0, 0, 1, 1), made on the device
        boxes = take_rows(boxes, drawn.column).where(drawn.chosen[..., None], pixel)
        positive = positive.gather(1, drawn.column) & drawn.chosen
        labels = torch.where(positive, found.labels.gather(1, drawn.column) + 1, 0)
        return Lesson(boxes, labels, take_rows(found.boxes, drawn.column).where(positive[..., None], boxes), drawn.chosen)

    def _draw(self, boxes: Tensor, positive: Tensor, negative: Tensor, targets: Targets) -> Sample:
        """Which of the ``boxes`` [B, R, 4] are taught; masks bool [B, R]."""
        return sample(positive, negative, size=self.samples, positive_share=self.positive_share)

    def _of_class(self, deltas: Tensor, labels: Tensor) -> Tensor:
        """Deltas [B, R, 4] of each box's class, from [B, R, kinds, 4]; ``labels`` [B, R]: 0 for background."""
        if self.box_kinds == 1:
            return deltas[:, :, 0]
        return deltas.gather(2, labels[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]

    def _check(self, features: Sequence[Tensor]) -> None:
        if len(features) != len(self.levels):
            raise ValueError(f"{self.owner}: expected maps of {len(self.levels)} levels, got {len(features)}")

    def _whole_input(self, features: Sequence[Tensor]) -> Tensor:
        """Width, height, width, height of the network's input, [1, 1, 4], as far as the finest map tells it."""
        (height, width), stride = features[0].shape[-2:], self.levels[0].stride
        odd = torch.arange(4, device=features[0].device) % 2 == 1
        return torch.where(odd, float(height * stride), float(width * stride))[None, None]

    def fusion_sites(self) -> list[FusionSite]:
        """Where maps of a box are joined, if they are."""
        return list(self.roi_fusion.fusion_sites())

    def predict(self, features: Sequence[Tensor], sizes: Tensor) -> RawDetections:
        """The best (proposal, class) pairs; ``sizes`` [B, 2] are the pictures' heights and widths in the network frame."""
        self._check(features)
        limits = sizes.flip(1).repeat(1, 2)[:, None].float()
        proposals = self.rpn.find(features, limits)
        rounds = [self._look(features, proposals, limits)]
        for _ in range(1, self.rounds):
            proposals = proposals._replace(boxes=rounds[-1][1])
            rounds.append(self._look(features, proposals, limits))
        if self.rounds == 1:
            return rounds[0][0]
        columns = zip(*(vars(candidates).values() for candidates, _ in rounds), strict=True)
        return RawDetections(*(torch.cat(column, dim=1) for column in columns))

    def _look(self, features: Sequence[Tensor], proposals: Proposals, limits: Tensor) -> tuple[RawDetections, Tensor]:
        """The best pairs of one round, and where the best class of each proposal has moved it, [B, R, 4]."""
        boxes, valid = proposals.boxes, proposals.valid
        logits, deltas, index = self(features, boxes)
        moved = self.coder.decode(self._of_class(deltas, logits[..., 1:].argmax(dim=2) + 1), boxes)
        scores = torch.where(valid[..., None], logits.softmax(dim=2)[..., 1:], 0.0).flatten(1)
        best, pair = scores.topk(min(self.candidates, scores.shape[1]), dim=1)
        region, labels = pair // self.num_classes, pair % self.num_classes
        row = region if self.box_kinds == 1 else region * self.box_kinds + labels + 1
        found = self.coder.decode(take_rows(deltas.flatten(1, 2), row), take_rows(boxes, region))
        found = torch.minimum(found.clamp(min=0), limits)
        small = ((found[..., 2:] - found[..., :2]) < SMALLEST).any(dim=-1)
        best = torch.where(small, 0.0, best)
        levels = self._fired(proposals, index).gather(1, region)
        # Not "over the threshold": a score that is not a number must go on to where it is refused, instead of vanishing here.
        kept = ~(best <= self.score_threshold)
        return RawDetections(found, best, labels, levels, kept), torch.minimum(moved.clamp(min=0), limits)

    def _fired(self, proposals: Proposals, index: Tensor) -> Tensor:
        """The head's level int64 [B, R] that each proposal counts for; ``index`` [B, R]: the pooled level of each."""
        return self.pool.places[index]


def _linear(in_features: int, out_features: int, std: float) -> nn.Linear:
    """Normal weights, zero bias (Fast R-CNN, section 2.3)."""
    linear = nn.Linear(in_features, out_features)
    nn.init.normal_(linear.weight, std=std)
    nn.init.zeros_(linear.bias)
    return linear
