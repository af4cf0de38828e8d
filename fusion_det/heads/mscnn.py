"""MS-CNN: proposals of every size from their own level, looked at in one fine map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from fusion_det.config.types import UnitInterval
from fusion_det.heads.enlarged_map import EnlargedMap, EnlargeKind, enlarged_level
from fusion_det.heads.faster_rcnn import FasterRCNN
from fusion_det.heads.matching import match_anchors
from fusion_det.heads.proposals import Proposals
from fusion_det.heads.random_sampling import Sample, sample
from fusion_det.heads.roi_levels import RoIPool
from fusion_det.structures import LevelSpec, Targets


class MSCNN(FasterRCNN):
    """Multi-scale CNN (Cai, Fan, Feris, Vasconcelos; ECCV 2016, arXiv 1607.07155): a two-stage detector with other regions and features.

    ``rpn`` proposes with templates of every level (:class:`.template_proposals.TemplateProposals`). The detection sub-network reads the
    finest level alone, enlarged twice (:class:`.enlarged_map.EnlargedMap`): ``roi_fusion`` pools the box and its surroundings and joins
    them (``roi_fusion=mscnn``), ``box_head`` makes a vector, from which come classes and a box for each of them, as in Faster R-CNN.
    Proposals of an IoU between ``near_overlap`` and ``negative_overlap`` are background before others are (the authors' code).
    A detection's level is the one whose template proposed it.

    The paper trains in two stages: first the proposals alone, then all, from those weights. Here both are runs of this head:
    ``detection_weight=0`` with ``rpn.sampling=random rpn.box_loss_weight=0.05``, then the defaults with ``init_from=``.

    Deviations: RoIAlign, not max pooling; so many samples in each image, there in a batch; background mostly inside a crowd region is no
    negative. With neck=mscnn's own buffer the detection sub-network too reads what comes out of it; the paper's reads the trunk
    (``rpn.buffer=true`` and no buffer in the neck, as the recipe has it). The pooled maps' convolution and the fully connected layers start
    as in Faster R-CNN, there with normal weights.
    """

    owner = "head mscnn"

    def __init__(
        self,
        levels: Sequence[LevelSpec],
        num_classes: int,
        *,
        rpn: Callable[..., Any],
        enlarge: EnlargeKind,
        bins: PositiveInt,
        bin_samples: NonNegativeInt,
        aligned: bool,
        roi_fusion: Callable[..., Any],
        box_head: Callable[..., Any],
        class_agnostic: bool,
        positive_overlap: Annotated[float, Field(gt=0, le=1)],
        negative_overlap: Annotated[float, Field(gt=0, le=1)],
        near_overlap: UnitInterval,
        crowd_overlap: Annotated[float, Field(gt=0, le=1)],
        add_objects: bool,
        samples: PositiveInt,
        positive_share: UnitInterval,
        box_weights: list[PositiveFloat],
        smooth_l1_beta: NonNegativeFloat,
        box_loss_weight: PositiveFloat,
        detection_weight: NonNegativeFloat,
        score_threshold: Annotated[float, Field(ge=0, lt=1)],
        candidates: PositiveInt,
    ) -> None:
        # The size of a box chooses nothing: there is one map to pool from.
        pool = partial(
            RoIPool, levels_used=None, bins=bins, samples=bin_samples, aligned=aligned, canonical_size=224.0, canonical_stride=16.0
        )
        super().__init__(
            levels, num_classes, rpn=partial(rpn, num_classes=num_classes), pool=lambda given: pool([enlarged_level(given[0], enlarge)]),
            roi_fusion=roi_fusion, box_head=box_head, class_agnostic=class_agnostic, positive_overlap=positive_overlap,
            negative_overlap=negative_overlap, crowd_overlap=crowd_overlap, add_objects=add_objects, samples=samples,
            positive_share=positive_share, box_weights=box_weights, smooth_l1_beta=smooth_l1_beta, box_loss_weight=box_loss_weight,
            score_threshold=score_threshold, candidates=candidates,
        )  # fmt: skip
        self.enlarge = EnlargedMap(self.levels[0].channels, enlarge)
        self.near_overlap, self.detection_weight = near_overlap, detection_weight

    def forward(self, features: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps and proposals [B, R, 4] -> logits [B, R, 1 + classes], deltas [B, R, kinds, 4], both float32, and zeros [B, R]."""
        return super().forward([self.enlarge(features[0])], boxes)

    def losses(self, features: Sequence[Tensor], targets: Targets) -> dict[str, Tensor]:
        """``loss_rpn_cls``, ``loss_rpn_box``, ``loss_cls``, ``loss_box``: scalars."""
        losses = super().losses(features, targets)
        return losses | {key: self.detection_weight * losses[key] for key in ("loss_cls", "loss_box")}

    def _draw(self, boxes: Tensor, positive: Tensor, negative: Tensor, targets: Targets) -> Sample:
        near = None
        if self.near_overlap > 0:
            overlaps = {"positive_overlap": self.near_overlap, "negative_overlap": self.near_overlap, "crowd_overlap": 1.0}
            near = match_anchors(boxes, targets, rescue="none", **overlaps).labels >= 0
        return sample(positive, negative, size=self.samples, positive_share=self.positive_share, first=near)

    def _fired(self, proposals: Proposals, index: Tensor) -> Tensor:
        return proposals.levels
