"""Losses over independent classes that look away from easy background.

Both are a dense term for the classes that an anchor does not show, nearly all of a dense head's losses, and another for the one class that
it shows: no one-hot target exists. Legend: A anchors or points (any leading shape), C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fusion_det.boxes import rows_within

CHUNK, CHUNK_ACCELERATOR = 2**17, 2**26
"""Logits looked at together: what a CPU's cache holds of the steps between; elsewhere what bounds their memory to 256 MiB a step."""


def focal_loss(logits: Tensor, labels: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Sigmoid focal loss summed over classes (Lin et al., ICCV 2017, arXiv 1708.02002, equation 5): ``-alpha_t (1 - p_t)^gamma log p_t``.

    ``logits`` [A, C] of any precision, computed in float32 or better; ``labels`` int64 [A], -1 for background -> [A].
    """
    absent, x = AbsentClasses.apply(logits, labels, gamma)
    present = (1 - x.sigmoid()).pow(gamma) * F.softplus(-x)
    return (1 - alpha) * absent + alpha * torch.where(labels >= 0, present, 0.0)


def quality_focal_loss(logits: Tensor, labels: Tensor, quality: Tensor, *, beta: float) -> Tensor:
    """Quality focal loss summed over classes (Li et al., NeurIPS 2020, arXiv 2006.04388, equation 2): ``|y - p|^beta BCE(p, y)``.

    ``y`` is ``quality`` [A] (the IoU of the predicted box with its object) at the label's class, 0 elsewhere. ``logits`` [A, C] of any
    precision; ``labels`` int64 [A], -1 for background -> [A].
    """
    absent, x = AbsentClasses.apply(logits, labels, beta)
    present = (quality - x.sigmoid()).abs().pow(beta) * (F.softplus(x) - quality * x)
    return absent + torch.where(labels >= 0, present, 0.0)


class AbsentClasses(torch.autograd.Function):
    """Sum of ``p^gamma * -log(1 - p)`` over the classes other than the label [A], and the label's logit (class 0's for background) [A].

    Both in float32, or float64 for such logits. Slopes are computed on the way, kept in the logits' precision and multiplied in place of
    three passes by autograd; together with the gradient of the label's logit they make one dense gradient. No second derivative.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
        rows, label = logits.flatten(0, -2), labels.flatten()[:, None]
        wide = torch.promote_types(logits.dtype, torch.float32)
        absent, picked = rows.new_empty(len(rows), dtype=wide), rows.gather(1, label.clamp(min=0)).to(wide)
        slopes = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        for part in _chunks(rows):
            x, shown = rows[part].to(wide), label[part]
            probability, entropy = x.sigmoid(), F.softplus(x)
            power = probability.pow(gamma)
            if slopes is not None:  # p^gamma (gamma (1 - p) entropy + p)
                slopes[part] = _without(torch.sub(1, probability).mul_(entropy).mul_(gamma).add_(probability).mul_(power), shown)
            absent[part] = _without(power.mul_(entropy), shown).sum(dim=1)
        if slopes is not None:
            ctx.save_for_backward(slopes, label)
        return absent.view(labels.shape), picked.view(labels.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, absent: Tensor, picked: Tensor) -> tuple[Tensor, None, None]:
        slopes, label = ctx.saved_tensors
        gradient, each = torch.empty_like(slopes), absent.flatten()[:, None]
        for part in _chunks(slopes):
            gradient[part] = slopes[part] * each[part]
        gradient.scatter_add_(1, label.clamp(min=0), picked.flatten()[:, None].to(gradient.dtype))
        return gradient.view(*absent.shape, gradient.shape[1]), None, None


def _chunks(rows: Tensor) -> list[slice]:
    """Parts of ``rows`` [A, C]."""
    size = rows_within(rows.shape[1], CHUNK if rows.device.type == "cpu" else CHUNK_ACCELERATOR)
    return [slice(start, start + size) for start in range(0, len(rows), size)]


def _without(values: Tensor, label: Tensor) -> Tensor:
    """``values`` [A, C], changed: 0 at the label [A, 1] of what has one."""
    at = label.clamp(min=0)
    return values.scatter_(1, at, values.gather(1, at).masked_fill_(label >= 0, 0))
