"""NMS of a padded batch against torchvision image by image."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import batched_nms

from fusion_det.late_fusion.nms import NMS
from fusion_det.structures import RawDetections


def candidates(batch=3, count=60, seed=0, valid=0.8):
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(batch, count, 2, generator=generator) * 50
    boxes = torch.cat([start, start + 5 + torch.rand(batch, count, 2, generator=generator) * 40], dim=2)
    scores = torch.rand(batch, count, generator=generator)
    labels = torch.randint(0, 3, (batch, count), generator=generator)
    levels = torch.randint(0, 4, (batch, count), generator=generator)
    return RawDetections(boxes, scores, labels, levels, torch.rand(batch, count, generator=generator) < valid)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("limit", [5, 100])
@pytest.mark.parametrize("count", [60, 900])
def test_equals_torchvision_per_image(agnostic, limit, count):
    raw = candidates(count=count)
    found = NMS(iou_threshold=0.4, max_detections=limit, class_agnostic=agnostic)([raw])
    for i in range(3):
        valid = raw.valid[i].nonzero()[:, 0]
        groups = torch.zeros_like(raw.labels[i, valid]) if agnostic else raw.labels[i, valid]
        keep = valid[batched_nms(raw.boxes[i, valid], raw.scores[i, valid], groups, 0.4)][:limit]
        mine = found.valid[i]
        assert torch.equal(found.boxes[i, mine], raw.boxes[i, keep])
        assert torch.equal(found.scores[i, mine], raw.scores[i, keep])
        assert torch.equal(found.labels[i, mine], raw.labels[i, keep])
        assert torch.equal(found.levels[i, mine], raw.levels[i, keep])
        assert mine[: mine.sum()].all()


def test_sources_compete_and_are_remembered():
    box = torch.tensor([[[0.0, 0.0, 10.0, 10.0]]])
    one = torch.ones(1, 1, dtype=torch.bool)
    zero = torch.zeros(1, 1, dtype=torch.int64)
    weak = RawDetections(box, torch.tensor([[0.3]]), zero, zero, one)
    strong = RawDetections(box + 0.1, torch.tensor([[0.9]]), zero, zero + 2, one)
    found = NMS(iou_threshold=0.5, max_detections=10, class_agnostic=False)([weak, strong])
    assert found.valid.sum() == 1
    assert (found.sources[0, 0].item(), found.levels[0, 0].item()) == (1, 2)
    assert found.scores[0, 0] == pytest.approx(0.9)


def test_nothing_in_nothing_out():
    raw = candidates(valid=0.0)
    found = NMS(iou_threshold=0.5, max_detections=10, class_agnostic=False)([raw])
    assert found.boxes.shape == (3, 0, 4)
    with pytest.raises(ValueError, match="at least one source"):
        NMS(iou_threshold=0.5, max_detections=10, class_agnostic=False)([])


def test_batch_order_does_not_matter():
    raw = candidates()
    nms = NMS(iou_threshold=0.4, max_detections=100, class_agnostic=False)
    flipped = RawDetections(*(getattr(raw, n).flip(0) for n in ("boxes", "scores", "labels", "levels", "valid")))
    a, b = nms([raw]), nms([flipped])
    assert torch.equal(a.scores, b.scores.flip(0))
    assert torch.equal(a.boxes, b.boxes.flip(0))
