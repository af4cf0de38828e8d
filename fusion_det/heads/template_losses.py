"""What MS-CNN's proposal branches learn: each template samples its own negatives and weighs its own terms.

Legend: B images, A template places of one branch, K classes. A branch is one convolution, for one template.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fusion_det.heads.sampling import hardest

Sampling = Literal["random", "bootstrapping", "mixture"]
"""Which background a branch is taught. random: any. bootstrapping: that of the highest loss. mixture: half of each."""


class Branches(NamedTuple):
    """The places of each branch, and what it counts for."""

    counts: Sequence[int]
    """Places per branch; their sum is the number of all places."""
    weights: Sequence[float]
    """Of each branch in the sum (the paper's alpha)."""


@torch.no_grad()
def choose_negatives(losses: Tensor, positive: Tensor, eligible: Tensor, *, sampling: Sampling, per_positive: float, least: int) -> Tensor:
    """Mask [B, A]: of the ``eligible`` places of each image ``per_positive`` times as many as are ``positive``, at least ``least``.

    ``losses`` [B, A] are what the places lose as background, ``positive`` and ``eligible`` bool [B, A]. All eligible ones if there are
    fewer. Random numbers come from torch's global generator.
    """
    count = (per_positive * positive.sum(dim=1)).floor().clamp(min=least)
    if sampling == "bootstrapping":
        return hardest(losses, eligible, count)
    if sampling == "random":
        return hardest(torch.rand_like(losses), eligible, count)
    hard = hardest(losses, eligible, (count / 2).ceil())
    return hard | hardest(torch.rand_like(losses), eligible & ~hard, (count / 2).floor())


def balanced(losses: Tensor, positive: Tensor, negative: Tensor, *, per_positive: float) -> Tensor:
    """``mean(positives) / (1 + r) + r mean(negatives) / (1 + r)`` over a batch, r = ``per_positive`` (MS-CNN, section 3.3).

    However many negatives there really are, the two terms keep the weights that they have at the ratio r. Without positives the
    negatives' mean alone (the authors' code). ``losses`` [B, A], masks bool [B, A] -> scalar.
    """
    number, other_number = positive.sum(), negative.sum()
    share = torch.where(number > 0, 1 / (1 + per_positive), 0.0).to(losses.dtype)
    kept, other = (losses * positive).sum() / number.clamp(min=1), (losses * negative).sum() / other_number.clamp(min=1)
    return share * kept + (1 - share) * other


def branch_losses(
    logits: Tensor,
    deltas: Tensor,
    labels: Tensor,
    ignored: Tensor,
    target: Tensor,
    branches: Branches,
    *,
    sampling: Sampling,
    per_positive: float,
    least: int,
) -> tuple[Tensor, Tensor]:
    """Class loss and box loss, scalars, summed over branches.

    ``logits`` [B, sum of A, 1 + K], background first; ``deltas`` and their ``target`` [B, sum of A, 4]; ``labels`` int64 [B, sum of A], -1
    for background; ``ignored`` bool [B, sum of A]: neither. Each branch's box loss is the mean of smooth L1 over the four deltas of the
    batch's positives.
    """
    entropy = F.cross_entropy(logits.flatten(0, 1), (labels + 1).flatten(), reduction="none").view_as(labels)
    shift = F.smooth_l1_loss(deltas, target, reduction="none").mean(dim=2)
    positive = labels >= 0
    parts = [x.split(list(branches.counts), dim=1) for x in (entropy, shift, positive, ~positive & ~ignored)]
    class_loss, box_loss = entropy.new_zeros(()), entropy.new_zeros(())
    for weight, loss, box, taught, eligible in zip(branches.weights, *parts, strict=True):
        negative = choose_negatives(loss, taught, eligible, sampling=sampling, per_positive=per_positive, least=least)
        class_loss = class_loss + weight * balanced(loss, taught, negative, per_positive=per_positive)
        box_loss = box_loss + weight * (box * taught).sum() / taught.sum().clamp(min=1)
    return class_loss, box_loss
