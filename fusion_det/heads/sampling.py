"""Which anchors of a batch take part in a loss, as masks: no index lists, so no device ever waits for the host."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def hardest(losses: Tensor, eligible: Tensor, count: Tensor) -> Tensor:
    """Mask [B, A] of the ``count`` [B] eligible anchors of each image with the highest loss; all eligible ones if there are fewer.

    ``losses`` [B, A] are non-negative, ``eligible`` bool [B, A]. A loss that is not a number counts as the highest, so it is not lost.
    With random numbers as ``losses`` it is a random sample.
    """
    order = torch.where(eligible, losses, -1.0).argsort(dim=1, descending=True)
    ranks = torch.arange(losses.shape[1], device=losses.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, ranks)
    return (rank < count[:, None]) & eligible
