"""HyperNet's light proposal branch: a small RoI head over thousands of fixed candidate boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fusion_det.config.types import UnitInterval
from fusion_det.heads.anchors import AnchorGrid, Anchors, anchor_cells
from fusion_det.heads.box_coder import BoxCoder
from fusion_det.heads.dense import shared_width
from fusion_det.heads.proposal_lesson import draw_lesson, proposal_losses
from fusion_det.heads.proposals import Proposals, propose
from fusion_det.heads.roi_levels import RoIPool
from fusion_det.layers import init_conv
from fusion_det.structures import LevelSpec, Targets

# Pooled numbers that are held at once while candidates are scored: 16 or 64 MiB of float32.
CHUNK_NUMBERS = 2**22
CHUNK_NUMBERS_ACCELERATOR = 2**24


class LightProposals(nn.Module):
    """First stage of HyperNet (Kong, Yao, Chen, Sun; CVPR 2016, arXiv 1604.00600, section 3.2); a drop-in for :class:`.rpn.RPN`.

    Every candidate box is pooled (``pool``, the paper: 13 x 13 bins), goes through a 3x3 convolution to ``conv_width`` channels and a
    fully connected layer of ``width``, and from there to an objectness and box deltas. Candidates with an IoU of ``positive_overlap`` or
    more with an object, and each object's best, are positive, under ``negative_overlap`` negative; ``samples`` of each image are taught.
    ``sp``: the paper's faster order, the convolution once over the map and the pooling after it, so that a candidate costs the pooling
    of ``conv_width`` channels, not of all. The two orders have the same parameters. They agree where bins are the map's pixels, but for
    the edge of the box, where the slow order sees zeros and the fast one the neighbours; other boxes are smoothed before or after.

    Candidates: the paper has some 30,000 sliding windows of several sizes and shapes and does not say which. Here: at every ``step``
    pixels boxes of all ``sizes`` (square root of the area) and ``aspect_ratios`` (height / width). All of them are scored without
    gradient, in chunks that bound memory; the gradient goes through those that are taught.

    Deviations: RoIAlign, not max pooling; one logit and a sigmoid in place of two and a softmax (the same function); trained together with
    the second stage, not in six alternating steps. Where boxes are pooled from several levels, they share one branch and each takes its own
    level by size. In training proposals are clipped to the network's input, since only prediction knows the pictures' sizes.
    """

    def __init__(
        self,
        levels: Sequence[LevelSpec],
        *,
        pool: Callable[..., Any],
        sp: bool,
        step: PositiveInt,
        sizes: Annotated[list[PositiveFloat], Field(min_length=1)],
        aspect_ratios: Annotated[list[PositiveFloat], Field(min_length=1)],
        conv_width: PositiveInt,
        width: PositiveInt,
        positive_overlap: Annotated[float, Field(gt=0, le=1)],
        negative_overlap: Annotated[float, Field(gt=0, le=1)],
        crowd_overlap: Annotated[float, Field(gt=0, le=1)],
        samples: PositiveInt,
        positive_share: UnitInterval,
        smooth_l1_beta: NonNegativeFloat,
        box_loss_weight: PositiveFloat,
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
        self.pool: RoIPool = pool(levels)
        channels = shared_width(self.pool.levels, owner="rpn.pool")
        self.finest, self.step, self.sp = levels[0].stride, step, sp
        cells = anchor_cells([sizes], aspect_ratios, whole_pixels=False)
        self.candidates = AnchorGrid(cells, [step], offset=0.5)
        self.coder = BoxCoder()
        self.draw_lesson = partial(
            draw_lesson, samples=samples, positive_share=positive_share,
            positive_overlap=positive_overlap, negative_overlap=negative_overlap, crowd_overlap=crowd_overlap,
        )  # fmt: skip
        self.smooth_l1_beta, self.box_loss_weight = smooth_l1_beta, box_loss_weight
        self.overlap, self.score_threshold = overlap, score_threshold
        self.before = {True: before_train, False: before_test}
        self.count = {True: count_train, False: count_test}
        self.conv = nn.Conv2d(channels, conv_width, 3, padding=1)
        init_conv(self.conv)
        self.linear = nn.Linear(conv_width * self.pool.bins**2, width)
        nn.init.kaiming_uniform_(self.linear.weight, a=1)
        self.objectness, self.deltas = nn.Linear(width, 1), nn.Linear(width, 4)
        for layer in (self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
        for layer in (self.linear, self.objectness, self.deltas):
            nn.init.zeros_(layer.bias)

    def learn(self, features: Sequence[Tensor], targets: Targets, limits: Tensor) -> tuple[dict[str, Tensor], Proposals]:
        """Losses ``loss_rpn_cls``, ``loss_rpn_box``, and proposals for the second stage to learn from, clipped to ``limits`` [1, 1, 4]."""
        candidates, maps = self.candidates_of(features), self.prepare(features)
        lesson = self.draw_lesson(candidates.boxes, targets)
        logits, deltas = self(maps, lesson.anchors)
        losses = proposal_losses(logits, deltas, lesson, self.coder, smooth_l1_beta=self.smooth_l1_beta)
        losses["loss_rpn_box"] = self.box_loss_weight * losses["loss_rpn_box"]
        return losses, self._propose(maps, candidates, limits, training=True)

    def find(self, features: Sequence[Tensor], limits: Tensor) -> Proposals:
        """Proposals of each picture, clipped to ``limits`` [B, 1, 4]."""
        return self._propose(self.prepare(features), self.candidates_of(features), limits, training=False)

    def candidates_of(self, features: Sequence[Tensor]) -> Anchors:
        """All candidates for maps of this size; the same for every picture."""
        height, width = (-(-side * self.finest // self.step) for side in features[0].shape[-2:])
        return self.candidates([(height, width)])

    def prepare(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The maps that boxes are pooled from: in the fast order convolved already."""
        maps = list(features)
        if self.sp:
            for i in self.pool.chosen:
                maps[i] = self.conv(maps[i]).relu()
        return maps

    def forward(self, maps: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Prepared maps and boxes [B, R, 4] -> objectness [B, R] and deltas [B, R, 4], both float32."""
        return self._judge(self.pool(maps, boxes, self.pool.assign(boxes)), len(boxes))

    def same_for_all(self, maps: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`forward` for boxes [R, 4] that are the same in every picture: pooled once, all pictures' channels side by side."""
        batch = len(maps[0])
        folded = [x.flatten(0, 1)[None] if i in self.pool.chosen else x for i, x in enumerate(maps)]
        pooled = self.pool(folded, boxes[None], self.pool.assign(boxes[None]))  # [R, B * C, bins, bins]
        return self._judge(pooled.unflatten(1, (batch, -1)).transpose(0, 1).flatten(0, 1), batch)

    def _judge(self, pooled: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Pooled maps [B * R, C, bins, bins] -> objectness [B, R] and deltas [B, R, 4], both float32."""
        if not self.sp:
            pooled = self.conv(pooled).relu()
        hidden = self.linear(pooled.flatten(1)).relu()
        return self.objectness(hidden).float().view(batch, -1), self.deltas(hidden).float().view(batch, -1, 4)

    @torch.no_grad()
    def _propose(self, maps: Sequence[Tensor], candidates: Anchors, limits: Tensor, *, training: bool) -> Proposals:
        scored = [self.same_for_all(maps, part) for part in candidates.boxes.split(self._chunk(maps))]
        logits, deltas = (torch.cat(column, dim=1) for column in zip(*scored, strict=True))
        return propose(
            logits, deltas, candidates, limits, self.coder, per_level=self.before[training], count=self.count[training],
            overlap=self.overlap, score_threshold=self.score_threshold,
        )  # fmt: skip

    def _chunk(self, maps: Sequence[Tensor]) -> int:
        """How many candidates of each picture to score at once."""
        numbers = len(maps[0]) * maps[self.pool.chosen[0]].shape[1] * self.pool.bins**2
        return max(1, (CHUNK_NUMBERS if maps[0].device.type == "cpu" else CHUNK_NUMBERS_ACCELERATOR) // max(1, numbers))
