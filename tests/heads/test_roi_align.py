"""RoIAlign by a sparse product against torchvision's kernel."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import MultiScaleRoIAlign

from fusion_det.heads.roi_align import roi_align, weighted_rows

STRIDES = [4, 8, 16]
SHAPES = [(33, 51), (17, 26), (9, 13)]
"""Odd sizes, and not exactly halves."""
PICTURE = (132, 204)


def maps(batch=2, channels=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, channels, *shape, generator=generator).to(dtype).requires_grad_() for shape in SHAPES]


def some_boxes(batch=2, count=40):
    """Inside, one-pixel, without area, swapped, at the border, partly and wholly outside."""
    generator = torch.Generator().manual_seed(1)
    start = torch.rand(batch, count, 2, generator=generator) * torch.tensor([200.0, 130.0])
    boxes = torch.cat([start, start + torch.rand(batch, count, 2, generator=generator) * 90], dim=2)
    boxes[:, 0] = torch.tensor([7.0, 8.0, 8.0, 9.0])
    boxes[:, 1] = torch.tensor([30.0, 30.0, 30.0, 30.0])
    boxes[:, 2] = torch.tensor([0.0, 0.0, 204.0, 132.0])
    boxes[:, 3] = torch.tensor([-60.0, -50.0, 20.0, 30.0])
    boxes[:, 4] = torch.tensor([190.0, 120.0, 300.0, 260.0])
    boxes[:, 5] = torch.tensor([-500.0, -500.0, -400.0, -400.0])
    boxes[:, 6] = torch.tensor([50.0, 60.0, 20.0, 30.0])
    return boxes, torch.randint(0, 3, (batch, count), generator=generator)


@pytest.mark.parametrize("bins", [7, 1])
@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("aligned", [False, True])
def test_same_numbers_and_gradients_as_torchvision(aligned, samples, bins):
    features, (boxes, levels) = maps(), some_boxes()
    options = {"strides": STRIDES, "bins": bins, "samples": samples, "aligned": aligned}
    ours, theirs = (roi_align(features, boxes, levels, sparse=sparse, **options) for sparse in (True, False))
    assert ours.shape == (80, 5, bins, bins)
    assert (ours - theirs).abs().max() < 1e-4
    gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    found, expected = (torch.autograd.grad(pooled, features, gradient) for pooled in (ours, theirs))
    for a, b in zip(found, expected, strict=True):
        assert b.abs().max() > 0
        assert (a - b).abs().max() < 1e-5 * b.abs().max()


def test_torchvision_kernel_is_called_with_the_right_levels():
    """The oracle of the test above is itself compared: one level of torchvision's pooler after the other."""
    features, (boxes, levels) = maps(), some_boxes()
    found = roi_align(features, boxes, levels, strides=STRIDES, bins=7, samples=2, aligned=False, sparse=False)
    for i, feature in enumerate(features):
        pooler = MultiScaleRoIAlign(["0"], 7, 2)
        pooler.scales, pooler.map_levels = [1 / STRIDES[i]], None
        pooler.map_levels = lambda boxes: torch.zeros(0)
        expected = pooler({"0": feature}, list(boxes), [PICTURE] * 2)
        chosen = (levels == i).flatten()
        assert chosen.any()
        assert torch.allclose(found[chosen], expected[chosen], atol=1e-5)


def test_as_many_samples_as_pixels_falls_back_to_torchvision():
    features, (boxes, levels) = maps(), some_boxes()
    options = {"strides": STRIDES, "bins": 7, "samples": 0, "aligned": True}
    assert torch.equal(roi_align(features, boxes, levels, **options), roi_align(features, boxes, levels, sparse=False, **options))
    with pytest.raises(ValueError, match="fixed number of samples"):
        roi_align(features, boxes, levels, sparse=True, **options)


@pytest.mark.parametrize("sparse", [True, False])
def test_no_boxes_and_no_pictures(sparse):
    for batch, count in ((2, 0), (0, 3)):
        features = maps(batch)
        boxes = torch.zeros(batch, count, 4)
        pooled = roi_align(
            features, boxes, torch.zeros(batch, count).long(), strides=STRIDES, bins=7, samples=2, aligned=True, sparse=sparse
        )
        assert pooled.shape == (0, 5, 7, 7)
        pooled.sum().backward()
        assert all(x.grad is not None and not x.grad.any() for x in features)


def test_bf16_maps_are_pooled_in_float32():
    features, (boxes, levels) = maps(dtype=torch.bfloat16), some_boxes()
    options = {"strides": STRIDES, "bins": 7, "samples": 2, "aligned": True}
    pooled = roi_align(features, boxes, levels, **options)
    exact = roi_align([x.float() for x in features], boxes, levels, **options)
    assert pooled.dtype == torch.bfloat16
    assert torch.equal(pooled, exact.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(roi_align([x.float() for x in features], boxes, levels, **options), exact)
    pooled.sum().backward()
    assert all(x.grad.dtype == torch.bfloat16 for x in features)


def test_boxes_that_are_no_numbers_stay_visible():
    features, (boxes, levels) = maps(), some_boxes()
    boxes[0, 10, 0] = torch.nan
    boxes[1, 11] = torch.inf
    pooled = roi_align(features, boxes, levels, strides=STRIDES, bins=7, samples=2, aligned=True)
    assert pooled[10].isnan().all()
    assert pooled[:10].isfinite().all()
    assert pooled[40:51].isfinite().all()


def test_maps_of_one_pixel_and_channels_last():
    feature = torch.randn(1, 4, 1, 1)
    boxes, levels = torch.tensor([[[0.0, 0.0, 8.0, 8.0]]]), torch.zeros(1, 1).long()
    pooled = roi_align([feature], boxes, levels, strides=[8], bins=7, samples=2, aligned=False)
    assert torch.allclose(pooled, feature.expand(1, 4, 7, 7))
    features, (boxes, levels) = maps(), some_boxes()
    options = {"strides": STRIDES, "bins": 7, "samples": 2, "aligned": True}
    last = [x.detach().contiguous(memory_format=torch.channels_last) for x in features]
    assert torch.equal(roi_align(features, boxes, levels, **options), roi_align(last, boxes, levels, **options))


def test_levels_must_fit_the_maps():
    with pytest.raises(ValueError, match="maps of 2 levels, got 3"):
        roi_align(maps(), *some_boxes(), strides=[4, 8], bins=7, samples=2, aligned=True)


def test_weighted_rows_is_an_embedding_bag_with_a_repeatable_gradient():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 6, generator=generator, requires_grad=True)
    index = torch.randint(0, 50, (30, 4), generator=generator)
    weights = torch.randn(30, 4, generator=generator)
    ours = weighted_rows(rows, index.int(), weights)
    theirs = F.embedding_bag(index, rows, per_sample_weights=weights, mode="sum")
    assert torch.allclose(ours, theirs, atol=1e-5)
    gradient = torch.randn(30, 6, generator=generator)
    (expected,) = torch.autograd.grad(theirs, rows, gradient)
    first, second = (torch.autograd.grad(ours, rows, gradient, retain_graph=True)[0] for _ in range(2))
    assert torch.allclose(first, expected, atol=1e-5)
    assert torch.equal(first, second)
    torch.library.opcheck(weighted_rows, (rows, index.int(), weights), test_utils=("test_schema", "test_faketensor"))
