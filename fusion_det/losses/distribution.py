"""Distances as distributions over whole numbers (Li et al., NeurIPS 2020, arXiv 2006.04388)."""

from __future__ import annotations

import torch
from torch import Tensor


def expected_distance(logits: Tensor) -> Tensor:
    """Mean of the distribution over 0, 1, ..., N - 1 that ``logits`` [..., N] describe -> [...] (equation 4)."""
    # Multiplied and summed, not a matrix product: autocast would do that one in bf16.
    return (logits.softmax(dim=-1) * torch.arange(logits.shape[-1], device=logits.device)).sum(dim=-1)


def distribution_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with the two whole numbers around ``target``, by how near each is (equation 6).

    ``logits`` [..., N]; ``target`` [...], inside [0, N - 1) -> [...].
    """
    left = target.floor()
    share = target - left
    slot = left.to(torch.int64)[..., None]
    log_share = logits.log_softmax(dim=-1)
    return -(log_share.gather(-1, slot)[..., 0] * (1 - share) + log_share.gather(-1, slot + 1)[..., 0] * share)
