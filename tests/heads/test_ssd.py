"""SSD against torchvision's with the same weights, and its default boxes against torchvision's and the official code's numbers."""

from __future__ import annotations

import math

import pytest
import torch
from head_cases import (
    as_torchvision,
    assert_same_detections,
    image_list,
    make_features,
    make_head,
    make_targets,
    random_batches,
    suppress,
)
from torch import nn
from torchvision.models.detection import ssd as reference
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.ops import box_iou

from fusion_det.heads.sampling import hardest
from fusion_det.structures import LevelSpec, Targets

STRIDES = [8, 16, 32, 64, 128, 256]
SSD300_SHAPES = [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)]
SSD300_WIDTHS = [512, 1024, 512, 256, 256, 256]
# Small maps and widths for the batches; pictures of 304 pixels, as 38 cells of 8.
WIDTHS = [4, 6, 8, 4, 4, 4]


def levels_of(widths):
    return [LevelSpec(f"P{i + 3}", width, stride) for i, (width, stride) in enumerate(zip(widths, STRIDES, strict=True))]


def ssd300(widths=WIDTHS, classes=5, **changes):
    return make_head("ssd", levels=levels_of(widths), classes=classes, **changes)


def generator(clip=True):
    return DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=[8, 16, 32, 64, 100, 300],
        clip=clip,
    )


def torchvision_twin(ours, widths=WIDTHS, classes=5):
    """torchvision's model with the weights of ``ours``, by the rule in SSD's docstring."""
    model = reference.SSD(
        nn.Identity(), generator(), (300, 300), classes + 1, head=reference.SSDHead(widths, [4, 6, 6, 6, 4, 4], classes + 1)
    )
    model.head.classification_head.module_list.load_state_dict(ours.class_logits.state_dict())
    model.head.regression_head.module_list.load_state_dict(ours.box_deltas.state_dict())
    return model.eval()


def features_of(seed, batch=2):
    return make_features(batch, seed, levels_of(WIDTHS), SSD300_SHAPES)


def targets_of(counts, seed, **changes):
    return make_targets(counts, seed=seed, picture=300, **changes)


@torch.no_grad()
def test_twenty_random_batches_equal_torchvision():
    ours = ssd300(clip="size").eval()
    theirs = torchvision_twin(ours)
    found = 0
    for seed, counts in random_batches():
        features, targets = features_of(seed), targets_of(counts, seed)
        outputs = theirs.head(features)
        logits, deltas = ours(features)
        assert torch.allclose(logits, outputs["cls_logits"], atol=1e-5)
        assert torch.allclose(deltas, outputs["bbox_regression"], atol=1e-5)
        anchors = theirs.anchor_generator(image_list(2, 300), features)
        rows = as_torchvision(targets, first_label=1)
        matched = [
            theirs.proposal_matcher(box_iou(row["boxes"], anchor)) if len(row["boxes"]) else torch.full((len(anchor),), -1)
            for row, anchor in zip(rows, anchors, strict=True)
        ]
        losses, expected = ours.losses(features, targets), theirs.compute_loss(rows, outputs, anchors, matched)
        assert torch.allclose(losses["loss_cls"], expected["classification"], rtol=1e-4, atol=1e-6)
        assert torch.allclose(losses["loss_box"], expected["bbox_regression"], rtol=1e-4, atol=1e-6)
        detections = theirs.postprocess_detections(outputs, anchors, [(300, 300)] * 2)
        final = suppress(ours.predict(features, torch.tensor([[300, 300]] * 2)), iou_threshold=0.45, max_detections=200)
        found += assert_same_detections(final, detections, first_label=1)
    assert found == 20 * 2 * 200


def test_ssd300_has_8732_priors_in_the_official_order():
    found = ssd300().anchors(SSD300_SHAPES)
    assert len(found.boxes) == 8732
    assert found.counts == (5776, 2166, 600, 150, 36, 4)
    # The first cell: centre (4, 4), sides 21, sqrt(21 * 45), then 2:1 and 1:2.
    middle, long, short = math.sqrt(21 * 45), 21 * math.sqrt(2), 21 / math.sqrt(2)
    sides = torch.tensor([[21.0, 21.0], [middle, middle], [long, short], [short, long]])
    assert torch.allclose(found.boxes[:4], torch.cat([4 - sides / 2, 4 + sides / 2], dim=1), atol=1e-5)
    # The next cell lies to the right; the last prior is 1:2 on the only cell of the last level.
    assert torch.allclose(found.boxes[4], torch.tensor([12 - 10.5, 4 - 10.5, 12 + 10.5, 4 + 10.5]))
    sides = torch.tensor([261 / math.sqrt(2), 261 * math.sqrt(2)])
    assert torch.allclose(found.boxes[-1], torch.cat([150 - sides / 2, 150 + sides / 2]), atol=1e-4)


@pytest.mark.parametrize("clip", [False, True])
def test_priors_equal_torchvision(clip):
    maps = [torch.zeros(1, 1, *shape) for shape in SSD300_SHAPES]
    theirs = generator(clip)(image_list(1, 300), maps)[0]
    # To the last bit: it decides which of two priors that overlap a small object equally learns it.
    assert torch.equal(ssd300(clip="size" if clip else "none").anchors(SSD300_SHAPES).boxes, theirs)


def test_clipped_corners_stay_in_the_picture():
    boxes = ssd300(clip="corners").anchors(SSD300_SHAPES).boxes
    assert boxes.min() == 0
    assert boxes.max() == 300


def test_voc_pixels():
    head = ssd300(min_sizes=[30, 60, 111, 162, 213, 264], max_sizes=[60, 111, 162, 213, 264, 315])
    widths = (lambda boxes: boxes[:, 2] - boxes[:, 0])(head.anchors(SSD300_SHAPES).boxes)
    first = [0, 5776, 7942, 8542, 8692, 8728]  # first prior of each level
    assert torch.allclose(widths[first], torch.tensor([30.0, 60.0, 111.0, 162.0, 213.0, 264.0]))
    assert torch.allclose(widths[[i + 1 for i in first]][:2], torch.tensor([math.sqrt(30 * 60), math.sqrt(60 * 111)]))


def test_parameter_counts_equal_torchvision():
    ours = ssd300(SSD300_WIDTHS, classes=90)
    theirs = reference.SSDHead(SSD300_WIDTHS, [4, 6, 6, 6, 4, 4], 91)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_sizes_from_strides_fit_any_levels():
    levels = [LevelSpec("P3", 4, 8), LevelSpec("P4", 4, 16)]
    boxes = make_head("ssd_small", levels=levels).anchors([(2, 2), (1, 1)]).boxes
    widths = boxes[:, 2] - boxes[:, 0]
    assert len(boxes) == 5 * 4
    assert torch.allclose(widths[:2], torch.tensor([16.0, math.sqrt(16 * 32)]))
    assert torch.allclose(widths[16:18], torch.tensor([32.0, math.sqrt(32 * 64)]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_sizes": [21.0, 45.0]}, r"one entry of min_sizes for each of the 6 levels \['P3', .* got 2; null derives"),
        ({"aspect_ratios": [[2.0], [3.0]]}, "one entry of aspect_ratios"),
        ({"steps": [8.0, 16.0, 32.0, 64.0, 128.0, 1024.0]}, "step 1024.0 of P8 does not go with the level's stride 256"),
        ({"max_sizes": [45.0, 99.0, 99.0, 207.0, 261.0, 315.0]}, "expected 0 < min size < max size on P5, got 99.0 and 99.0"),
        ({"box_weights": [10.0, 10.0]}, "four positive weights"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as refused:
        ssd300(**changes)
    assert "\n" not in str(refused.value)


def test_hard_negatives_equal_brute_force():
    generator = torch.Generator().manual_seed(2)
    losses = torch.rand(4, 30, generator=generator)
    eligible = torch.rand(4, 30, generator=generator) < 0.7
    count = torch.tensor([0, 6, 3, 100])
    found = hardest(losses, eligible, count)
    for row in range(4):
        order = sorted((i for i in range(30) if eligible[row, i]), key=lambda i: -losses[row, i])
        assert set(found[row].nonzero()[:, 0].tolist()) == set(order[: count[row]])


def test_a_loss_that_is_not_a_number_is_mined_first():
    losses = torch.tensor([[1.0, torch.nan, 3.0]])
    assert hardest(losses, torch.tensor([[True, True, True]]), torch.tensor([1])).tolist() == [[False, True, False]]


def test_negatives_of_a_known_batch():
    """One object on the last level: its positives, and three times as many negatives, by hand."""
    head = ssd300()
    features = [torch.zeros(1, level.channels, *shape) for level, shape in zip(head.levels, SSD300_SHAPES, strict=True)]
    boxes = torch.tensor([[[19.5, 19.5, 280.5, 280.5]]])  # the first prior of the last level
    one = torch.ones(1, 1, dtype=torch.bool)
    positives = int((box_iou(boxes[0], head.anchors(SSD300_SHAPES).boxes) >= 0.5).sum())
    found = head.losses(features, Targets(boxes, torch.zeros(1, 1, dtype=torch.int64), one, ~one))
    # Zero maps give equal logits: every box loses log(6), a quarter of them are positives.
    assert torch.isclose(found["loss_cls"], torch.tensor(4 * math.log(6)))
    assert positives >= 1


def test_no_negatives_inside_a_crowd():
    head, features = ssd300(), features_of(0, batch=1)
    targets = targets_of([3], 1)
    everywhere = Targets(targets.boxes.clone(), targets.labels, targets.valid, targets.crowd.clone())
    everywhere.boxes[0, 5] = torch.tensor([-500.0, -500.0, 900.0, 900.0])
    everywhere.crowd[0, 5] = True
    logits, _ = head(features)
    losses = -logits.log_softmax(dim=2)
    plain, crowded = head.losses(features, targets), head.losses(features, everywhere)
    assert torch.equal(plain["loss_box"], crowded["loss_box"])
    assert crowded["loss_cls"] < plain["loss_cls"]
    # Only positives are left, each with the loss of its own class.
    assert crowded["loss_cls"] <= losses[..., 1:].max()


def test_convolutions_before_the_predictors_serve_classes_or_boxes_of_one_level():
    head = ssd300(num_convs=2, norm="bn").eval()
    features = make_features(levels=head.levels, shapes=SSD300_SHAPES)
    logits, deltas = head(features)
    counts = head.anchors(SSD300_SHAPES).counts
    nn.init.zeros_(head.class_towers[1][3].weight)
    nn.init.zeros_(head.box_towers[2][3].weight)
    changed = [(a != b).any(dim=2).split(counts, dim=1) for a, b in zip((logits, deltas), head(features), strict=True)]
    assert [part.any().item() for part in changed[0]] == [False, True, False, False, False, False]
    assert [part.any().item() for part in changed[1]] == [False, False, True, False, False, False]
