"""Losses of deltas against torch's and torchvision's on the rows that count."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from fusion_det.heads.box_coder import BoxCoder
from fusion_det.heads.box_loss import BoxRegressionLoss

KINDS = ("l1", "smooth_l1", "giou")


def scene():
    """Two pictures with five anchors; of the second picture none is positive."""
    generator = torch.Generator().manual_seed(0)
    corner = 50 * torch.rand(2, 5, 2, generator=generator)
    boxes = torch.cat([corner, corner + 5 + 20 * torch.rand(2, 5, 2, generator=generator)], dim=2)
    anchors = torch.tensor([[0.0, 0, 20, 20]]).repeat(5, 1) + 8 * torch.arange(5.0)[:, None]
    positive = torch.tensor([[True, False, True, True, False], [False] * 5])
    boxes[~positive] = 0.0  # background has no box
    return anchors, boxes, positive, torch.rand(2, 5, generator=generator), torch.randn(2, 5, 4, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_library_on_the_positive_rows(kind):
    anchors, boxes, positive, weight, deltas = scene()
    coder = BoxCoder([10.0, 10.0, 5.0, 5.0])
    deltas.requires_grad_()
    ours = BoxRegressionLoss(coder, kind, beta=0.3, weight=2.0)(deltas, anchors, boxes, positive, weight)
    rows = anchors.expand(2, -1, -1)[positive]
    if kind == "giou":
        losses = generalized_box_iou_loss(coder.decode(deltas[positive], rows), boxes[positive])
    else:
        losses = F.smooth_l1_loss(
            deltas[positive], coder.encode(boxes[positive], rows), beta=0.3 if kind == "smooth_l1" else 0.0, reduction="none"
        ).sum(dim=1)
    torch.testing.assert_close(ours, 2 * (losses * weight[positive]).sum())
    (gradient,) = torch.autograd.grad(ours, deltas)
    assert gradient.isfinite().all()
    assert (gradient[~positive] == 0).all()
    assert (gradient[positive] != 0).any()


@pytest.mark.parametrize("kind", KINDS)
def test_right_deltas_cost_nothing(kind):
    anchors, boxes, positive, weight, _ = scene()
    coder = BoxCoder()
    deltas = coder.encode(boxes.where(positive[..., None], anchors), anchors)
    loss = BoxRegressionLoss(coder, kind, beta=1.0, weight=1.0)(deltas, anchors, boxes, positive, weight)
    torch.testing.assert_close(loss, torch.zeros(()), atol=1e-5, rtol=0)
