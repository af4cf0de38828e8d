"""MS-CNN's proposal sub-network: on every level its own filters, each for objects of one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fusion_det.config.types import UnitInterval
from fusion_det.heads.anchors import AnchorGrid, Anchors
from fusion_det.heads.box_coder import BoxCoder
from fusion_det.heads.dense import flatten_levels
from fusion_det.heads.first_stage import AnchorStage
from fusion_det.heads.matching import match_anchors
from fusion_det.heads.proposals import Proposals, propose
from fusion_det.heads.template_losses import Branches, Sampling, branch_losses
from fusion_det.heads.templates import Template, make_templates
from fusion_det.structures import LevelSpec, Targets


class TemplateProposals(AnchorStage):
    """Proposal sub-network of MS-CNN (Cai, Fan, Feris, Vasconcelos; ECCV 2016, arXiv 1607.07155, section 3); it takes the place of
    :class:`.rpn.RPN`.

    Every template has one convolution on its level that gives the logits of background and all classes and four box deltas for a box of
    the template's size around each cell; nothing is shared, and levels may differ in width. ``buffer``: a 3x3 convolution and ReLU before
    the finest level's templates, which keeps their strong gradient away from the trunk; leave it out where the neck has one (neck=mscnn).

    A template place with an IoU of ``positive_overlap`` or more with an object, and each object's best place, are positive, under
    ``negative_overlap`` negative. Each branch draws ``negatives_per_positive`` (the paper's gamma, 3) times as many negatives as it has
    positives in an image, at least ``least_negatives``, by ``sampling``: the default, bootstrapping, takes those of the highest loss, as
    the paper's final stage does (and is the same every time); its first stage draws at random. Cross-entropy of positives and negatives
    is weighed by :func:`.template_losses.balanced`, smooth L1 by ``box_loss_weight`` (lambda), branches by ``level_weights`` (alpha) of
    their level. Numbers are counted over the batch of one device.

    Proposals: the best ``before`` places of all branches by largest class logit less background's, moved by their deltas, without those
    that a better one, of whatever level, overlaps by more than ``overlap``.

    Deviations from the authors' code (7s-576-2x): negatives are ranked by their loss over all classes at once, there class by class; an
    object's best place learns it also where another place does or the IoU is under 0.2; deltas are not cut at a half of the template and
    a factor of 2; background mostly inside a crowd region is no negative. In training proposals are clipped to the network's input.
    """

    branch_level: Tensor

    def __init__(
        self,
        levels: Sequence[LevelSpec],
        num_classes: int,
        *,
        kernels: Annotated[list[list[list[PositiveInt]]], Field(min_length=1)],
        template_sizes: list[list[list[PositiveFloat]]] | None,
        template_scale: PositiveFloat,
        buffer: bool,
        level_weights: Annotated[list[PositiveFloat], Field(min_length=1)],
        positive_overlap: Annotated[float, Field(gt=0, le=1)],
        negative_overlap: Annotated[float, Field(gt=0, le=1)],
        crowd_overlap: Annotated[float, Field(gt=0, le=1)],
        sampling: Sampling,
        negatives_per_positive: PositiveFloat,
        least_negatives: NonNegativeInt,
        box_loss_weight: NonNegativeFloat,
        before_train: PositiveInt,
        before_test: PositiveInt,
        count_train: PositiveInt,
        count_test: PositiveInt,
        overlap: UnitInterval,
        score_threshold: UnitInterval,
    ) -> None:
        super().__init__()
        if negative_overlap > positive_overlap:
            raise ValueError(f"rpn: expected negative_overlap <= positive_overlap, got {negative_overlap} > {positive_overlap}")
        self.levels, self.columns = tuple(levels), num_classes + 1
        self.templates = make_templates(self.levels, kernels, template_sizes, template_scale)
        weights = _weights(self.levels, level_weights)
        self.weights = [weights[t.place] for t in self.templates]
        self.anchors = AnchorGrid(
            [[_around_zero(t.size)] for t in self.templates], [self.levels[t.place].stride for t in self.templates], offset=0.5
        )
        self.register_buffer("branch_level", torch.tensor([t.place for t in self.templates]), persistent=False)
        self.coder = BoxCoder()
        self.matching = {
            "positive_overlap": positive_overlap, "negative_overlap": negative_overlap, "crowd_overlap": crowd_overlap,
        }  # fmt: skip
        self.sampling: Sampling = sampling
        self.negatives_per_positive, self.least_negatives, self.box_loss_weight = negatives_per_positive, least_negatives, box_loss_weight
        self.overlap, self.score_threshold = overlap, score_threshold
        self.before = {True: before_train, False: before_test}
        self.count = {True: count_train, False: count_test}
        width = self.levels[0].channels
        self.buffer = nn.Sequential(_conv(width, width, (3, 3), 0.01), nn.ReLU(inplace=True)) if buffer else nn.Identity()
        self.branches = nn.ModuleList(self._branch(t) for t in self.templates)

    def _branch(self, template: Template) -> nn.Conv2d:
        return _conv(self.levels[template.place].channels, self.columns + 4, template.kernel, 0.001)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor, Anchors]:
        """Maps [B, C_i, H_i, W_i] of all levels -> logits [B, A, 1 + classes] (background first), deltas [B, A, 4], both float32, and the
        templates' places, whose "levels" are the branches."""
        maps = [self.buffer(features[0]), *features[1:]]
        read = [maps[t.place] for t in self.templates]
        rows = flatten_levels([branch(x) for branch, x in zip(self.branches, read, strict=True)]).float()
        return rows[..., : self.columns], rows[..., self.columns :], self.anchors([(x.shape[-2], x.shape[-1]) for x in read])

    def losses(self, logits: Tensor, deltas: Tensor, anchors: Anchors, targets: Targets) -> dict[str, Tensor]:
        """``loss_rpn_cls``, ``loss_rpn_box``: scalars."""
        found = match_anchors(anchors.boxes, targets, rescue="best", **self.matching)
        # Background has no box to encode; its own place stands in, so that nothing infinite meets a mask.
        target = self.coder.encode(found.boxes.where((found.labels >= 0)[..., None], anchors.boxes), anchors.boxes)
        class_loss, box_loss = branch_losses(
            logits, deltas, found.labels, found.ignored, target.to(deltas.dtype), Branches(anchors.counts, self.weights),
            sampling=self.sampling, per_positive=self.negatives_per_positive, least=self.least_negatives,
        )  # fmt: skip
        return {"loss_rpn_cls": class_loss, "loss_rpn_box": self.box_loss_weight * box_loss}

    def propose(self, logits: Tensor, deltas: Tensor, anchors: Anchors, limits: Tensor, *, training: bool) -> Proposals:
        """Proposals of a batch with the index of the level whose template found each, clipped to ``limits`` [B, 1, 4] or [1, 1, 4]."""
        objectness = logits[..., 1:].amax(dim=2) - logits[..., 0]
        together = Anchors(anchors.boxes, self.branch_level[anchors.levels], (len(anchors.boxes),))
        return propose(
            objectness, deltas, together, limits, self.coder, per_level=self.before[training], count=self.count[training],
            overlap=self.overlap, score_threshold=self.score_threshold,
        )  # fmt: skip


def _around_zero(size: tuple[float, float]) -> list[float]:
    half_width, half_height = size[0] / 2, size[1] / 2
    return [-half_width, -half_height, half_width, half_height]


def _weights(levels: Sequence[LevelSpec], given: list[float]) -> list[float]:
    """One weight per level; the last one given holds for all coarser levels."""
    if len(given) > len(levels):
        names = [level.name for level in levels]
        raise ValueError(f"rpn: expected level_weights for at most the {len(levels)} levels {names}, got {len(given)}")
    return given + [given[-1]] * (len(levels) - len(given))


def _conv(in_channels: int, channels: int, kernel: tuple[int, int], std: float) -> nn.Conv2d:
    """Convolution with a kernel of (width, height) that keeps the size; normal weights, zero bias (the authors' prototxt)."""
    width, height = kernel
    conv = nn.Conv2d(in_channels, channels, (height, width), padding=(height // 2, width // 2))
    nn.init.normal_(conv.weight, std=std)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv
