"""Losses over independent classes that look away from easy background.

Both are a dense term, as if everything were background, and a correction at the one class of each positive: no one-hot target exists.
Legend: A anchors or points (any leading shape), C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def focal_loss(logits: Tensor, labels: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Sigmoid focal loss summed over classes (Lin et al., ICCV 2017, arXiv 1708.02002, equation 5): ``-alpha_t (1 - p_t)^gamma log p_t``.

    ``logits`` [A, C]; ``labels`` int64 [A], -1 for background -> [A].
    """
    x = _at_label(logits, labels)
    right = alpha * (1 - x.sigmoid()).pow(gamma) * F.softplus(-x)
    return (1 - alpha) * AllBackground.apply(logits, gamma) + torch.where(labels >= 0, right - (1 - alpha) * _background(x, gamma), 0.0)


def quality_focal_loss(logits: Tensor, labels: Tensor, quality: Tensor, *, beta: float) -> Tensor:
    """Quality focal loss summed over classes (Li et al., NeurIPS 2020, arXiv 2006.04388, equation 2): ``|y - p|^beta BCE(p, y)``.

    ``y`` is ``quality`` [A] (the IoU of the predicted box with its object) at the label's class, 0 elsewhere. ``logits`` [A, C]; ``labels``
    int64 [A], -1 for background -> [A].
    """
    x = _at_label(logits, labels)
    right = (quality - x.sigmoid()).abs().pow(beta) * (F.softplus(x) - quality * x)
    return AllBackground.apply(logits, beta) + torch.where(labels >= 0, right - _background(x, beta), 0.0)


class AllBackground(torch.autograd.Function):
    """:func:`_background` [A, C] summed over classes, [A], its slope computed on the way.

    Nearly all of a dense head's losses are these terms, and autograd would pass over the logits three times as often. No second derivative.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, gamma: float) -> Tensor:
        probability, entropy = logits.sigmoid(), F.softplus(logits)
        power = probability.pow(gamma)
        if ctx.needs_input_grad[0]:  # p^gamma (gamma (1 - p) entropy + p)
            ctx.save_for_backward(torch.sub(1, probability).mul_(entropy).mul_(gamma).add_(probability).mul_(power))
        return power.mul_(entropy).sum(dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope * gradient[..., None], None


def _background(logits: Tensor, gamma: float) -> Tensor:
    """``p^gamma * -log(1 - p)``: each logit's loss if its class is absent."""
    return logits.sigmoid().pow(gamma) * F.softplus(logits)


def _at_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the label's class [A] (of class 0 for background)."""
    return logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
