"""The region proposal network: is there an object near this anchor, and where."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fusion_det.config.types import UnitInterval
from fusion_det.heads.anchors import AnchorGrid, Anchors, anchor_cells
from fusion_det.heads.box_coder import BoxCoder
from fusion_det.heads.dense import flatten_anchors, init_normal, shared_width
from fusion_det.heads.first_stage import AnchorStage
from fusion_det.heads.proposal_lesson import draw_lesson, proposal_losses
from fusion_det.heads.proposals import Proposals, propose
from fusion_det.heads.random_sampling import take_rows
from fusion_det.heads.roi_levels import choose_levels
from fusion_det.structures import LevelSpec, Targets


class RPN(AnchorStage):
    """Region proposal network (Ren, He, Girshick, Sun; NeurIPS 2015, arXiv 1506.01497) on one level or, shared, on several (Lin et al.,
    *Feature Pyramid Networks*, CVPR 2017, arXiv 1612.03144, section 4.1).

    ``num_convs`` 3x3 convolutions with ReLU, then objectness and box deltas by 1x1. Anchors of an IoU of ``positive_overlap`` or more with
    an object, and each object's best, are positive; under ``negative_overlap`` negative. Of each image ``samples`` are drawn; binary
    cross-entropy and smooth L1 are both divided by the number drawn in the batch (torchvision; the papers divide the latter otherwise).
    ``levels``: names of the levels that propose (``None``: all). ``anchor_sizes``: pixels per level, or ``None``: ``anchor_scales`` times
    the stride; the original on one level has five sizes.
    Deviation: background mostly inside a crowd region is no negative. In training proposals are clipped to the network's input, since only
    prediction knows the pictures' sizes.

    torchvision's weights: ``convs.{2i}`` = ``rpn.head.conv.{i}.0``, ``objectness`` = ``rpn.head.cls_logits``, ``deltas`` =
    ``rpn.head.bbox_pred``.
    """

    def __init__(
        self,
        levels: Sequence[LevelSpec],
        *,
        levels_used: list[str] | None,
        num_convs: PositiveInt,
        anchor_scales: list[PositiveFloat],
        anchor_sizes: list[list[PositiveFloat]] | None,
        aspect_ratios: list[PositiveFloat],
        whole_pixels: bool,
        anchor_offset: Annotated[float, Field(ge=0, lt=1)],
        cell_stride: Literal["level", "measured"],
        positive_overlap: Annotated[float, Field(gt=0, le=1)],
        negative_overlap: Annotated[float, Field(gt=0, le=1)],
        crowd_overlap: Annotated[float, Field(gt=0, le=1)],
        samples: PositiveInt,
        positive_share: UnitInterval,
        smooth_l1_beta: NonNegativeFloat,
        per_level_train: PositiveInt,
        per_level_test: PositiveInt,
        count_train: PositiveInt,
        count_test: PositiveInt,
        overlap: UnitInterval,
        score_threshold: UnitInterval,
    ) -> None:
        super().__init__()
        self.places = choose_levels(levels, levels_used, owner="rpn.levels_used")
        self.levels = tuple(levels[i] for i in self.places)
        if negative_overlap > positive_overlap:
            raise ValueError(f"rpn: expected negative_overlap <= positive_overlap, got {negative_overlap} > {positive_overlap}")
        channels = shared_width(self.levels, owner="head faster_rcnn: rpn")
        cells = anchor_cells(_sizes(self.levels, anchor_sizes, anchor_scales), aspect_ratios, whole_pixels=whole_pixels)
        self.anchors = AnchorGrid(cells, [level.stride for level in self.levels], offset=anchor_offset, cell_stride=cell_stride)
        self.coder = BoxCoder()
        self.draw_lesson = partial(
            draw_lesson, samples=samples, positive_share=positive_share,
            positive_overlap=positive_overlap, negative_overlap=negative_overlap, crowd_overlap=crowd_overlap,
        )  # fmt: skip
        self.smooth_l1_beta, self.overlap, self.score_threshold = smooth_l1_beta, overlap, score_threshold
        self.per_level = {True: per_level_train, False: per_level_test}
        self.count = {True: count_train, False: count_test}
        layers: list[nn.Module] = []
        for _ in range(num_convs):
            layers += [init_normal(nn.Conv2d(channels, channels, 3, padding=1)), nn.ReLU(inplace=True)]
        self.convs = nn.Sequential(*layers)
        self.objectness = init_normal(nn.Conv2d(channels, len(cells[0]), 1))
        self.deltas = init_normal(nn.Conv2d(channels, 4 * len(cells[0]), 1))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor, Anchors]:
        """Maps of all the head's levels -> objectness [B, A] and deltas [B, A, 4], both float32, and their anchors."""
        used = [features[i] for i in self.places]
        hidden = [self.convs(x) for x in used]
        logits = flatten_anchors([self.objectness(x) for x in hidden], 1).float()[..., 0]
        deltas = flatten_anchors([self.deltas(x) for x in hidden], 4).float()
        return logits, deltas, self.anchors([(x.shape[-2], x.shape[-1]) for x in used])

    def propose(self, logits: Tensor, deltas: Tensor, anchors: Anchors, limits: Tensor, *, training: bool) -> Proposals:
        """Proposals of a batch, clipped to ``limits`` [B, 1, 4] or [1, 1, 4]."""
        return propose(
            logits, deltas, anchors, limits, self.coder, per_level=self.per_level[training], count=self.count[training],
            overlap=self.overlap, score_threshold=self.score_threshold,
        )  # fmt: skip

    def losses(self, logits: Tensor, deltas: Tensor, anchors: Anchors, targets: Targets) -> dict[str, Tensor]:
        """``loss_rpn_cls``, ``loss_rpn_box``: scalars."""
        lesson = self.draw_lesson(anchors.boxes, targets)
        logits, deltas = logits.gather(1, lesson.column), take_rows(deltas, lesson.column)
        return proposal_losses(logits, deltas, lesson, self.coder, smooth_l1_beta=self.smooth_l1_beta)


def _sizes(levels: Sequence[LevelSpec], given: list[list[float]] | None, scales: Sequence[float]) -> list[list[float]]:
    """Anchor sizes per level in pixels, as many on each level."""
    if given is None:
        return [[scale * level.stride for scale in scales] for level in levels]
    if len(given) != len(levels) or len({len(sizes) for sizes in given}) != 1 or not given[0]:
        raise ValueError(
            f"rpn: expected anchor_sizes for the {len(levels)} levels {[level.name for level in levels]}, equally many on each, got "
            f"{given}; null derives them from anchor_scales and the strides"
        )
    return given
