"""Anchors against objects: torchvision's matchers image by image, crowds, chunks and the memory of crowded pictures."""

from __future__ import annotations

import weakref

import pytest
import torch
from head_cases import SHAPES, make_features, make_head, make_targets
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.models.detection._utils import BoxCoder as TheirCoder
from torchvision.models.detection._utils import Matcher, SSDMatcher
from torchvision.ops import box_iou

from fusion_det import boxes as box_module
from fusion_det.heads.box_coder import BoxCoder
from fusion_det.heads.matching import match_anchors
from fusion_det.structures import Targets

MIB = 2**20


def anchors_of():
    return make_head("retinanet").anchors(SHAPES).boxes


def expected_of(matcher, anchors, targets, row):
    """Labels and what is ignored, by torchvision's matcher on one image."""
    boxes, labels = targets.boxes[row][targets.valid[row]], targets.labels[row][targets.valid[row]]
    if not len(boxes):
        return torch.full((len(anchors),), -1), torch.zeros(len(anchors), dtype=torch.bool), torch.zeros(len(anchors), 4)
    index = matcher(box_iou(boxes, anchors))
    positive = index >= 0
    slot = index.clamp(min=0)
    return torch.where(positive, labels[slot], -1), index == Matcher.BETWEEN_THRESHOLDS, boxes[slot] * positive[:, None]


@pytest.mark.parametrize(
    ("matcher", "settings"),
    [
        (Matcher(0.5, 0.4, allow_low_quality_matches=True), (0.5, 0.4, "ties")),
        (Matcher(0.7, 0.3, allow_low_quality_matches=True), (0.7, 0.3, "ties")),
        (Matcher(0.5, 0.5, allow_low_quality_matches=False), (0.5, 0.5, "none")),
        (SSDMatcher(0.5), (0.5, 0.5, "best")),
    ],
)
@pytest.mark.parametrize("chunk", [2**22, 700])
def test_matches_equal_torchvision(matcher, settings, chunk, monkeypatch):
    monkeypatch.setattr(box_module, "CHUNK_PAIRS", chunk)
    positive_overlap, negative_overlap, rescue = settings
    anchors, positives = anchors_of(), 0
    for seed in range(5):
        targets = make_targets([9, 0, 16, 1], seed=seed)
        found = match_anchors(
            anchors, targets, positive_overlap=positive_overlap, negative_overlap=negative_overlap, rescue=rescue, crowd_overlap=0.5
        )
        for row in range(4):
            labels, between, boxes = expected_of(matcher, anchors, targets, row)
            assert torch.equal(found.labels[row], labels)
            assert torch.equal(found.ignored[row], between)
            assert torch.equal(found.boxes[row], boxes)
            positives += int((labels >= 0).sum())
    assert positives > 100


def test_anchors_of_each_image_may_differ():
    """Proposals: [B, A, 4]."""
    anchors, targets = anchors_of()[::7], make_targets([9, 4])
    settings = {"positive_overlap": 0.5, "negative_overlap": 0.4, "rescue": "ties", "crowd_overlap": 0.5}
    both = match_anchors(torch.stack([anchors, anchors + 3]), targets, **settings)
    for row, shift in enumerate((0, 3)):
        alone = match_anchors(anchors + shift, targets, **settings)
        assert torch.equal(both.labels[row], alone.labels[row])
        assert torch.equal(both.ignored[row], alone.ignored[row])


@pytest.mark.parametrize("chunk", [2**22, 700])
def test_background_mostly_inside_a_crowd_is_ignored(chunk, monkeypatch):
    monkeypatch.setattr(box_module, "CHUNK_PAIRS", chunk)
    anchors, targets = anchors_of(), make_targets([3, 2, 4], crowds=[(1, 0), (1, 1), (2, 3)], seed=4)
    found = match_anchors(anchors, targets, positive_overlap=0.5, negative_overlap=0.4, rescue="ties", crowd_overlap=0.5)
    expected = torch.zeros(3, len(anchors), dtype=torch.bool)
    for row, slot in ((1, 0), (1, 1), (2, 3)):
        region = targets.boxes[row, slot]
        shared = (torch.minimum(anchors[:, 2:], region[2:]) - torch.maximum(anchors[:, :2], region[:2])).clamp(min=0).prod(dim=1)
        expected[row] |= shared / (anchors[:, 2:] - anchors[:, :2]).prod(dim=1) > 0.5
    assert (found.labels[1] == -1).all()
    assert torch.equal(found.ignored[1], expected[1])
    assert found.ignored[1].any()
    assert torch.equal(found.ignored[2] & expected[2], expected[2] & (found.labels[2] < 0))
    assert (expected[2] & (found.labels[2] >= 0)).sum() == (found.labels[2] >= 0)[expected[2]].sum()
    assert torch.isin(targets.boxes[2, 3], found.boxes[2]).all().logical_not()  # no anchor learns the crowd


@pytest.mark.parametrize("rescue", ["ties", "best"])
def test_an_object_that_no_anchor_touches_rescues_none(rescue):
    boxes = torch.tensor([[[900.0, 900.0, 920.0, 920.0]]])
    one = torch.ones(1, 1, dtype=torch.bool)
    found = match_anchors(
        anchors_of(), Targets(boxes, torch.zeros(1, 1, dtype=torch.int64), one, ~one),
        positive_overlap=0.5, negative_overlap=0.4, rescue=rescue, crowd_overlap=0.5,
    )  # fmt: skip
    assert (found.labels == -1).all()


def test_a_one_pixel_object_is_rescued_by_its_best_anchor():
    boxes = torch.tensor([[[61.0, 61.0, 62.0, 62.0]]])
    one = torch.ones(1, 1, dtype=torch.bool)
    targets = Targets(boxes, torch.zeros(1, 1, dtype=torch.int64), one, ~one)
    anchors = anchors_of()
    settings = {"positive_overlap": 0.5, "negative_overlap": 0.4, "crowd_overlap": 0.5}
    ious = box_iou(boxes[0], anchors)[0]
    ties = match_anchors(anchors, targets, rescue="ties", **settings)
    best = match_anchors(anchors, targets, rescue="best", **settings)
    assert torch.equal(ties.labels[0] >= 0, ious == ious.max())
    assert (best.labels[0] >= 0).nonzero().tolist() == [[int(ious.argmax())]]


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_box_coder_equals_torchvision(weights):
    anchors = anchors_of()
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(2, len(anchors), 2, generator=generator) * 100
    boxes = torch.cat([start, start + 1 + torch.rand(start.shape, generator=generator) * 60], dim=2)
    deltas = torch.randn(2, len(anchors), 4, generator=generator) * 4  # some reach the limit of the stretch
    ours, theirs = BoxCoder(weights), TheirCoder(weights)
    for row in range(2):
        assert torch.allclose(ours.encode(boxes, anchors)[row], theirs.encode_single(boxes[row], anchors), rtol=1e-5, atol=1e-5)
        assert torch.allclose(ours.decode(deltas, anchors)[row], theirs.decode_single(deltas[row], anchors), rtol=1e-4, atol=1e-3)
    assert torch.allclose(ours.decode(ours.encode(boxes, anchors), anchors), boxes, atol=1e-3)


class Memory(TorchDispatchMode):
    """Bytes of all tensors made inside that are alive at once, at most."""

    def __init__(self):
        super().__init__()
        self.alive, self.peak, self.known = 0, 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.watch(tensor.untyped_storage())
        return result

    def watch(self, storage):
        address, size = storage._cdata, storage.nbytes()
        if address not in self.known:
            self.known.add(address)
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self.forget, address, size)

    def forget(self, address, size):
        self.known.discard(address)
        self.alive -= size


@pytest.mark.parametrize(("name", "limit"), [("fcos", 100), ("retinanet", 50), ("gfl", 50), ("ssd_small", 50)])
def test_peak_memory_of_five_thousand_boxes(name, limit):
    """All heads, one picture of 256 x 256: the temporary memory of losses is bounded however many boxes there are."""
    shapes = [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2)]
    head, features = make_head(name), make_features(1, shapes=shapes)
    peaks = []
    for boxes in (16, 5008):
        targets = make_targets([boxes - 8], padded=boxes, picture=256)
        with torch.no_grad(), Memory() as memory:
            losses = head.losses(features, targets)
        assert all(torch.isfinite(loss) for loss in losses.values())
        peaks.append(memory.peak / MIB)
    assert peaks[1] - peaks[0] < limit, peaks
