"""Focal losses against their formulas, torchvision's and numerical gradients, in one chunk and in many, in both precisions."""

import pytest
import torch
from torch.nn import functional as F

from fusion_det.losses import focal
from fusion_det.losses.focal import focal_loss, quality_focal_loss


def test_quality_focal_loss_is_the_formula():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 6, generator=generator) * 3
    labels = torch.randint(-1, 6, (40,), generator=generator)
    quality = torch.rand(40, generator=generator) * (labels >= 0)
    p, y = logits.double().sigmoid(), torch.zeros(40, 6, dtype=torch.float64)
    for row, label in enumerate(labels.tolist()):
        if label >= 0:
            y[row, label] = quality[row]
    expected = (-(y - p).abs().square() * ((1 - y) * (1 - p).log() + y * p.log())).sum(dim=1)
    assert torch.allclose(quality_focal_loss(logits, labels, quality, beta=2.0), expected.float(), rtol=1e-5)


def test_focal_loss_is_torchvisions():
    from torchvision.ops import sigmoid_focal_loss

    generator = torch.Generator().manual_seed(1)
    logits = (torch.randn(3, 50, 7, generator=generator) * 4).requires_grad_()
    labels = torch.randint(-1, 7, (3, 50), generator=generator)
    one_hot = F.one_hot(labels.clamp(min=0), 7) * (labels >= 0)[..., None]
    expected = sigmoid_focal_loss(logits, one_hot.float(), alpha=0.3, gamma=1.5).sum(dim=2)
    found = focal_loss(logits, labels, alpha=0.3, gamma=1.5)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    theirs, mine = (torch.autograd.grad(loss.sum(), logits)[0] for loss in (expected, found))
    assert torch.allclose(theirs, mine, rtol=1e-4, atol=1e-6)


def test_focal_losses_of_huge_logits_are_finite():
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    labels = torch.tensor([0, 0])
    total = focal_loss(logits, labels, alpha=0.25, gamma=2.0).sum() + quality_focal_loss(logits, labels, torch.rand(2), beta=2.0).sum()
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(logits.grad).all()


def some(dtype=torch.float32, anchors=40, classes=6):
    generator = torch.Generator().manual_seed(2)
    logits = (torch.randn(2, anchors, classes, generator=generator, dtype=dtype) * 3).requires_grad_()
    labels = torch.randint(-1, classes, (2, anchors), generator=generator)
    return logits, labels, torch.rand(2, anchors, generator=generator, dtype=dtype)


def both(logits, labels, quality):
    """One number of both losses, each anchor weighted otherwise."""
    losses = focal_loss(logits, labels, alpha=0.25, gamma=2.0) + quality_focal_loss(logits, labels, quality, beta=2.0)
    return (losses * torch.linspace(0.5, 2, labels.numel()).to(losses.dtype).view(labels.shape)).sum()


def test_slopes_are_numerical_ones():
    logits, labels, quality = some(torch.float64, anchors=5)
    assert torch.autograd.gradcheck(lambda x: both(x, labels, quality), (logits,))


@pytest.mark.parametrize("rows", [1, 7, 80])
def test_chunks_change_nothing(monkeypatch, rows):
    logits, labels, quality = some()
    whole = both(logits, labels, quality)
    (expected,) = torch.autograd.grad(whole, logits)
    monkeypatch.setattr(focal, "CHUNK", rows * logits.shape[-1])
    found = both(logits, labels, quality)
    assert torch.isclose(found, whole, rtol=1e-6)
    assert torch.allclose(torch.autograd.grad(found, logits)[0], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["focal", "quality"])
def test_half_precision_is_rounded_only_at_the_ends(kind):
    """The losses are those of the same logits in float32; the gradient differs by its rounding, also where a label's class is certain."""
    logits, labels, quality = some(anchors=200)
    short = (logits.detach() * 2).bfloat16().requires_grad_()
    wide = short.detach().float().requires_grad_()
    losses = [
        focal_loss(x, labels, alpha=0.25, gamma=2.0) if kind == "focal" else quality_focal_loss(x, labels, quality, beta=2.0)
        for x in (short, wide)
    ]
    assert losses[0].dtype == torch.float32
    assert torch.allclose(*losses, rtol=1e-6)
    gradients = [torch.autograd.grad((loss * 0.3).sum(), x)[0] for loss, x in zip(losses, (short, wide), strict=True)]
    assert gradients[0].dtype == torch.bfloat16
    assert torch.allclose(gradients[0].float(), gradients[1], rtol=2 * 2**-8, atol=0)


def test_no_anchors_no_loss():
    logits = torch.zeros(2, 0, 3, requires_grad=True)
    loss = focal_loss(logits, torch.zeros(2, 0, dtype=torch.int64), alpha=0.25, gamma=2.0)
    loss.sum().backward()
    assert loss.shape == (2, 0)
    assert logits.grad.shape == logits.shape
