"""What the first stage of a two-stage detector learns: is there an object near this box, and where."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fusion_det.heads.box_coder import BoxCoder
from fusion_det.heads.matching import match_anchors
from fusion_det.heads.random_sampling import sample, take_rows
from fusion_det.losses.boxes import masked_smooth_l1_loss
from fusion_det.structures import Targets


class ProposalLesson(NamedTuple):
    """S anchors of each image and what each is to learn."""

    column: Tensor
    """int64 [B, S]: which anchors."""
    anchors: Tensor
    """float32 [B, S, 4]: their boxes."""
    objects: Tensor
    """float32 [B, S, 4]: the matched object's box; the anchor's own where there is none, so that nothing infinite meets a mask."""
    positive: Tensor
    """bool [B, S]."""
    taught: Tensor
    """bool [B, S]: false for slots that could not be filled."""


@torch.no_grad()
def draw_lesson(
    anchors: Tensor,
    targets: Targets,
    *,
    samples: int,
    positive_share: float,
    positive_overlap: float,
    negative_overlap: float,
    crowd_overlap: float,
) -> ProposalLesson:
    """``samples`` of the ``anchors`` [A, 4] of each image, at most ``positive_share`` of them positive.

    Positive are those with an IoU of ``positive_overlap`` or more with an object, and each object's best; negative those under
    ``negative_overlap`` with all, unless more of them than ``crowd_overlap`` lies in a crowd region.
    """
    found = match_anchors(
        anchors, targets, rescue="ties",
        positive_overlap=positive_overlap, negative_overlap=negative_overlap, crowd_overlap=crowd_overlap,
    )  # fmt: skip
    positive = found.labels >= 0
    drawn = sample(positive, ~positive & ~found.ignored, size=samples, positive_share=positive_share)
    positive = positive.gather(1, drawn.column) & drawn.chosen
    near = anchors[drawn.column]
    objects = take_rows(found.boxes, drawn.column).where(positive[..., None], near)
    return ProposalLesson(drawn.column, near, objects, positive, drawn.chosen)


def proposal_losses(logits: Tensor, deltas: Tensor, lesson: ProposalLesson, coder: BoxCoder, *, smooth_l1_beta: float) -> dict[str, Tensor]:
    """``loss_rpn_cls`` and ``loss_rpn_box`` from the objectness [B, S] and deltas [B, S, 4] of the lesson's anchors.

    Binary cross-entropy and smooth L1, both divided by the number of anchors taught in the batch.
    """
    number = lesson.taught.sum().clamp(min=1)
    losses = F.binary_cross_entropy_with_logits(logits, lesson.positive.float(), reduction="none")
    target = coder.encode(lesson.objects, lesson.anchors)
    box_loss = masked_smooth_l1_loss(deltas, target, lesson.positive, torch.ones_like(losses), beta=smooth_l1_beta)
    return {"loss_rpn_cls": (losses * lesson.taught).sum() / number, "loss_rpn_box": box_loss / number}
