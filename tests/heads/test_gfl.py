"""GFL and ATSS against the papers' formulas, one object and one anchor at a time."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from head_cases import LEVELS, SHAPES, make_features, make_head, make_targets
from torchvision.ops import box_iou, generalized_box_iou_loss

from fusion_det import boxes as box_module
from fusion_det.heads.atss import assign_atss
from fusion_det.losses.distribution import distribution_focal_loss, expected_distance
from fusion_det.losses.focal import quality_focal_loss
from fusion_det.structures import Targets


def brute_force_atss(anchors, targets, nearest):
    """Algorithm 1 of the paper in plain Python; slot of the object per anchor, or -1."""
    centres = ((anchors.boxes[:, :2] + anchors.boxes[:, 2:]) / 2).tolist()
    result = torch.full((len(targets.labels), len(centres)), -1)
    for b in range(len(result)):
        best = [0.0] * len(centres)
        for g in targets.valid[b].nonzero()[:, 0].tolist():
            x0, y0, x1, y1 = targets.boxes[b, g].tolist()
            ious = box_iou(targets.boxes[b, g][None], anchors.boxes)[0].tolist()
            candidates, start = [], 0
            for count in anchors.counts:
                level = range(start, start + count)
                distance = {a: math.dist(centres[a], ((x0 + x1) / 2, (y0 + y1) / 2)) for a in level}
                candidates += sorted(level, key=distance.__getitem__)[:nearest]
                start += count
            overlaps = [ious[a] for a in candidates]
            threshold = statistics.mean(overlaps) + statistics.stdev(overlaps)
            for a in candidates:
                x, y = centres[a]
                inside = min(x - x0, y - y0, x1 - x, y1 - y) > 0.01
                if ious[a] >= threshold and inside and ious[a] > best[a]:
                    best[a], result[b, a] = ious[a], g
    return result


def slots(found, targets):
    """The object's slot per anchor, told by its box."""
    same = (found.boxes[:, :, None] == targets.boxes[:, None]).all(dim=3) & targets.valid[:, None]
    return torch.where(found.labels >= 0, same.int().argmax(dim=2), -1)


# In the last three batches it shows that the deviation is a sample's (N - 1).
@pytest.mark.parametrize(("nearest", "counts", "seed"), [(9, [9, 0, 4, 16], 5), (9, [16] * 4, 3), (9, [16] * 4, 11), (3, [16] * 4, 7)])
def test_atss_equals_brute_force(nearest, counts, seed):
    anchors = make_head("gfl").anchors(SHAPES)
    targets = make_targets(counts, crowds=[(0, 1)], seed=seed)
    found = assign_atss(anchors, targets, nearest=nearest)
    expected = brute_force_atss(anchors, targets, nearest)
    assert torch.equal(slots(found, targets), expected)
    assert (expected >= 0).sum() > 30
    assert torch.equal(found.labels >= 0, expected >= 0)


def test_atss_in_chunks_is_the_same(monkeypatch):
    anchors, targets = make_head("gfl").anchors(SHAPES), make_targets([9, 3], crowds=[(0, 1)])
    whole = assign_atss(anchors, targets, nearest=9)
    monkeypatch.setattr(box_module, "CHUNK_PAIRS", 1500)
    assert all(torch.equal(a, b) for a, b in zip(whole, assign_atss(anchors, targets, nearest=9), strict=True))


def test_atss_anchor_of_two_objects_takes_the_better_overlap():
    anchors = make_head("gfl", levels=LEVELS[:1]).anchors(SHAPES[:1])
    boxes = torch.tensor([[[32.0, 32.0, 96.0, 96.0], [36.0, 36.0, 92.0, 92.0]]])
    valid = torch.ones(1, 2, dtype=torch.bool)
    targets = Targets(boxes, torch.tensor([[0, 1]]), valid, ~valid)
    found = assign_atss(anchors, targets, nearest=9)
    taken = found.labels[0] >= 0
    ious = box_iou(boxes[0], anchors.boxes[taken])
    assert taken.sum() >= 4
    assert torch.equal(found.labels[0][taken], ious.argmax(dim=0))


@pytest.mark.parametrize(("number", "nearest"), [(1, 27), (2, 14), (3, 9)])
def test_few_levels_give_more_candidates_each(number, nearest):
    assert make_head("gfl", LEVELS[:number]).nearest == nearest
    assert make_head("gfl", LEVELS[:number], least_candidates=0).nearest == 9


@torch.no_grad()
def test_more_candidates_on_one_level_teach_more_points():
    """What ``least_candidates`` is for: of 9 candidates few pass mean + standard deviation."""
    head, features, targets = make_head("gfl", LEVELS[:1]), make_features(levels=LEVELS[:1], shapes=SHAPES[:1]), make_targets([6, 6])
    anchors = head.anchors([features[0].shape[-2:]])
    few, many = ((assign_atss(anchors, targets, nearest=n).labels >= 0).sum() for n in (9, head.nearest))
    assert 2 * many > 3 * few > 0


def test_distribution_focal_loss_is_the_formula():
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.5]])
    p = logits.softmax(dim=1)[0]
    assert torch.isclose(distribution_focal_loss(logits, torch.tensor([1.25]))[0], -(0.75 * p[1].log() + 0.25 * p[2].log()))
    assert torch.isclose(distribution_focal_loss(logits, torch.tensor([2.0]))[0], -p[2].log())
    assert torch.isclose(expected_distance(logits)[0], p[1] + 2 * p[2] + 3 * p[3])


@pytest.mark.parametrize("std", [0.3, 0.01])  # sure of its classes, and at the start: then the weights' sum counts as 1
@torch.no_grad()
def test_losses_are_the_papers_sums(std):
    """The three losses again, from the assignment on, with index lists in place of masks."""
    head = make_head("gfl")
    torch.nn.init.normal_(head.class_logits.weight, std=std)
    torch.nn.init.normal_(head.box_bins.weight, std=0.3)
    features, targets = make_features(), make_targets([6, 3], seed=2)
    logits, bins = head(features)
    anchors = head.anchors(SHAPES)
    index = brute_force_atss(anchors, targets, 9)
    rows, points = (index >= 0).nonzero(as_tuple=True)
    objects = targets.boxes[rows, index[rows, points]]
    centres = (anchors.boxes[points, :2] + anchors.boxes[points, 2:]) / 2
    strides = torch.repeat_interleave(torch.tensor([8.0, 16, 32, 64, 128]), torch.tensor(anchors.counts))[points, None]
    distances = (bins[rows, points].softmax(dim=2) @ torch.arange(17.0)) * strides
    boxes = torch.cat([centres - distances[:, :2], centres + distances[:, 2:]], dim=1)
    weight = logits[rows, points].sigmoid().amax(dim=1)
    labels = torch.full_like(index, -1)
    labels[rows, points] = targets.labels[rows, index[rows, points]]
    quality = torch.zeros(index.shape)
    quality[rows, points] = box_iou(boxes, objects).diagonal()
    wanted = (torch.cat([centres - objects[:, :2], objects[:, 2:] - centres], dim=1) / strides).clamp(0, 15.9)
    low = wanted.long()
    logs = bins[rows, points].log_softmax(dim=2)
    left, right = (logs.gather(2, i[..., None])[..., 0] for i in (low, low + 1))
    bin_loss = -(left * (low + 1 - wanted) + right * (wanted - low)).mean(dim=1)
    total = weight.sum().clamp(min=1)
    expected = {
        "loss_cls": quality_focal_loss(logits, labels, quality, beta=2.0).sum() / len(rows),
        "loss_box": 2 * (generalized_box_iou_loss(boxes, objects) * weight).sum() / total,
        "loss_distribution": 0.25 * (bin_loss * weight).sum() / total,
    }
    found = head.losses(features, targets)
    assert len(rows) > 10
    assert (weight.sum() < 1) == (std == 0.01)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-4), (name, found[name], value)


def test_a_distribution_on_one_bin_is_that_distance():
    """Bins that say 2 strides to every side: boxes of 4 strides around the points."""
    head = make_head("gfl", point_offset=0.5)
    torch.nn.init.zeros_(head.box_bins.weight)
    with torch.no_grad():
        head.box_bins.bias.copy_(torch.where(torch.arange(17).repeat(4) == 2, 50.0, 0.0))
        raw = head.predict(make_features(), torch.tensor([[128, 128]] * 2))
    first = raw.boxes[0][raw.levels[0] == 0]
    widths = first[:, 2] - first[:, 0]
    inner = (first[:, 0] > 0) & (first[:, 2] < 128)
    assert torch.allclose(widths[inner], torch.tensor(32.0), atol=1e-3)
    assert (first[inner][:, 0] - 20).remainder(8).abs().max() < 1e-3 or inner.sum() == 0
    assert inner.any()


def test_background_whose_centre_is_in_a_crowd_is_ignored():
    head = make_head("gfl")
    targets = make_targets([1, 1], crowds=[(1, 0)], seed=7)
    anchors = head.anchors(SHAPES)
    found = assign_atss(anchors, targets, nearest=9)
    centres = (anchors.boxes[:, :2] + anchors.boxes[:, 2:]) / 2
    box = targets.boxes[1, 0]
    assert torch.equal(found.ignored[1], ((centres > box[:2]) & (centres < box[2:])).all(dim=1))
    assert found.ignored[1].any()
    assert not found.ignored[0].any()


def test_targets_made_of_predictions_are_not_taught():
    """The quality is no way for the class loss to move boxes, and the weights are none for the box losses to move classes."""
    head = make_head("gfl")
    losses = head.losses(make_features(), make_targets([6, 3], seed=2))
    box_parts, class_parts = [head.box_bins.weight, head.scales[0].scale], [head.class_logits.weight]
    assert torch.autograd.grad(losses["loss_cls"], box_parts, retain_graph=True, allow_unused=True) == (None, None)
    for name in ("loss_box", "loss_distribution"):
        assert torch.autograd.grad(losses[name], class_parts, retain_graph=True, allow_unused=True) == (None,)
        assert torch.autograd.grad(losses[name], box_parts, retain_graph=True)[0].any()
