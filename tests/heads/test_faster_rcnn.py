"""Faster R-CNN against torchvision's with the same weights, and what the contract of heads does not ask."""

from __future__ import annotations

import pytest
import torch
from head_cases import (
    CHANNELS,
    PICTURE,
    Stub,
    as_torchvision,
    assert_same_detections,
    image_list,
    make_features,
    make_targets,
    random_batches,
    suppress,
)
from head_cases import options as yaml_options
from torch import nn
from torchvision.models.detection import FasterRCNN as Reference
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.ops import MultiScaleRoIAlign

from fusion_det.config.instantiate import build
from fusion_det.heads.random_sampling import Sample, sample
from fusion_det.structures import LevelSpec, Targets

LEVELS = [LevelSpec(f"P{i}", CHANNELS, 2**i) for i in range(2, 7)]
SHAPES = [(PICTURE // level.stride,) * 2 for level in LEVELS]
CLASSES = 5
SIZES = torch.tensor([[PICTURE, PICTURE]] * 2)
POOLED = ["0", "1", "2", "3"]


def make(name="faster_rcnn", levels=LEVELS, roi_fusion=None, **changes):
    """The head of ``configs/head/NAME.yaml``; ``rpn__samples=3`` changes a key inside a part."""
    node = yaml_options("head", name)
    if roi_fusion is not None:
        node["roi_fusion"] = yaml_options("roi_fusion", roi_fusion)
    for key, value in changes.items():
        *parts, last = key.split("__")
        inside = node
        for part in parts:
            inside = inside[part]
        assert last in inside
        inside[last] = value
    torch.manual_seed(3)
    return build(node, levels, CLASSES)


def features_of(seed=0, batch=2):
    return make_features(batch, seed, LEVELS, SHAPES)


def spread(head):
    """Weights under which proposals move and many classes pass the score threshold; sizes so that several levels are pooled."""
    generator = torch.Generator().manual_seed(8)
    scale = {"rpn.objectness": 0.3, "rpn.deltas": 0.1, "class_logits": 0.1, "box_deltas": 0.05, "rpn.convs": 0.1}
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            std = next((s for start, s in scale.items() if name.startswith(start)), None)
            if std is not None and parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return head


def torchvision_twin(ours):
    """torchvision's model with the weights of ``ours``, by the rules in the docstrings."""
    width = ours.box_head.out_features
    anchors = AnchorGenerator(tuple((8 * level.stride,) for level in LEVELS), ((0.5, 1.0, 2.0),) * len(LEVELS))
    pool = MultiScaleRoIAlign(POOLED, 7, 2, canonical_scale=56)
    theirs = Reference(
        Stub(), CLASSES + 1, rpn_anchor_generator=anchors, box_roi_pool=pool, box_head=TwoMLPHead(CHANNELS * 49, width),
        min_size=PICTURE, max_size=PICTURE,
    )  # fmt: skip
    theirs.roi_heads.box_predictor = type(theirs.roi_heads.box_predictor)(width, CLASSES + 1)
    mine = ours.state_dict()
    rules = {
        "rpn.convs.0": "rpn.head.conv.0.0", "rpn.objectness": "rpn.head.cls_logits", "rpn.deltas": "rpn.head.bbox_pred",
        "box_head.linears.0": "roi_heads.box_head.fc6", "box_head.linears.2": "roi_heads.box_head.fc7",
        "class_logits": "roi_heads.box_predictor.cls_score", "box_deltas": "roi_heads.box_predictor.bbox_pred",
    }  # fmt: skip
    state = {f"{there}.{kind}": mine[f"{here}.{kind}"] for here, there in rules.items() for kind in ("weight", "bias")}
    theirs.load_state_dict(state)  # strict: nothing of theirs is left out
    assert len(state) == len(mine)
    return theirs


def parity_pair(**changes):
    ours = spread(make(pool__canonical_size=56.0, box_head__width=64, candidates=100_000, **changes))
    return ours, torchvision_twin(ours)


def padded(boxes):
    """A list of boxes [K_i, 4] as [B, K, 4]."""
    return nn.utils.rnn.pad_sequence(list(boxes), batch_first=True)


@torch.no_grad()
def test_twenty_random_batches_give_torchvisions_outputs_and_boxes():
    ours, theirs = parity_pair()
    ours.eval()
    theirs.eval()
    found, levels = 0, set()
    for seed, _ in random_batches():
        features = features_of(seed)
        named = {str(i): x for i, x in enumerate(features)}
        objectness, deltas, anchors = ours.rpn(features)
        there = theirs.rpn.head(features)
        for mine, maps, columns in ((objectness[..., None], there[0], 1), (deltas, there[1], 4)):
            flat = torch.cat([m.unflatten(1, (-1, columns)).permute(0, 3, 4, 1, 2).reshape(2, -1, columns) for m in maps], dim=1)
            assert torch.allclose(mine, flat, atol=1e-5)
        assert torch.equal(anchors.boxes, theirs.rpn.anchor_generator(image_list(2), features)[0])

        proposals, _ = theirs.rpn(image_list(2), named)
        mine = ours.rpn.propose(objectness, deltas, anchors, torch.full((2, 1, 4), float(PICTURE)), training=False)
        for row in range(2):
            kept = mine.boxes[row][mine.valid[row]]
            assert kept.shape == proposals[row].shape
            same = (kept[:, None] - proposals[row]).abs().amax(dim=2) < 1e-3  # equal scores stand in any order
            assert same.any(dim=0).all()
            assert same.any(dim=1).all()

        logits, shifts, _ = ours(features, padded(proposals))
        pooled = theirs.roi_heads.box_head(theirs.roi_heads.box_roi_pool(named, proposals, [(PICTURE, PICTURE)] * 2))
        expected_logits, expected_shifts = theirs.roi_heads.box_predictor(pooled)
        rows = torch.cat([torch.arange(len(p)) + i * logits.shape[1] for i, p in enumerate(proposals)])
        assert torch.allclose(logits.flatten(0, 1)[rows], expected_logits, atol=1e-5)
        assert torch.allclose(shifts.flatten(2).flatten(0, 1)[rows], expected_shifts, atol=1e-5)

        raw = ours.predict(features, SIZES)
        levels |= set(raw.levels[raw.valid].tolist())
        detections, _ = theirs.roi_heads(named, proposals, [(PICTURE, PICTURE)] * 2)
        final = suppress(raw, iou_threshold=0.5, max_detections=100)
        found += assert_same_detections(final, detections, first_label=1)
    assert found > 1000
    assert levels == {0, 1, 2, 3}


@torch.no_grad()
def test_pictures_of_odd_sizes_give_torchvisions_boxes():
    """Maps of rounded sizes; the second picture does not fill the input."""
    ours, theirs = parity_pair(rpn__cell_stride="measured")
    ours.eval()
    theirs.eval()
    height, width, sizes = 100, 140, [(100, 140), (77, 131)]
    shapes = [(-(-height // level.stride), -(-width // level.stride)) for level in LEVELS]
    for seed in range(3):
        features = make_features(2, seed, LEVELS, shapes)
        named = {str(i): x for i, x in enumerate(features)}
        pictures = ImageList(torch.zeros(2, 3, height, width), sizes)
        proposals, _ = theirs.rpn(pictures, named)
        theirs.roi_heads.box_roi_pool.scales = None  # made anew for these sizes
        expected, _ = theirs.roi_heads(named, proposals, sizes)
        final = suppress(ours.predict(features, torch.tensor(sizes)), iou_threshold=0.5, max_detections=100)
        assert assert_same_detections(final, expected, first_label=1) > 50


class First:
    """In the place of both samplers: the first so many positives and negatives, so that both sides draw the same."""

    def __init__(self, size, positive_share):
        self.size, self.share = size, positive_share

    def __call__(self, labels):
        chosen = [self.of(row >= 1, row == 0) for row in labels]
        return [c[0].to(torch.uint8) for c in chosen], [c[1].to(torch.uint8) for c in chosen]

    def of(self, positive, negative):
        positive = positive & (positive.cumsum(-1) <= int(self.size * self.share))
        return positive, negative & (negative.cumsum(-1) <= self.size - positive.sum(-1, keepdim=True))


def draw_first(positive, negative, *, size, positive_share):
    """``sample`` with the choice of :class:`First`."""
    positive, negative = First(size, positive_share).of(positive, negative)
    chosen, order = (positive | negative).to(torch.uint8).sort(dim=1, descending=True, stable=True)
    return Sample(order[:, :size], chosen[:, :size].bool())


def losses_of_both(ours, theirs, features, targets):
    named = {str(i): x for i, x in enumerate(features)}
    rows = as_torchvision(targets, first_label=1)
    theirs.train()
    theirs.rpn.fg_bg_sampler, theirs.roi_heads.fg_bg_sampler = First(256, 0.5), First(512, 0.25)
    proposals, expected = theirs.rpn(image_list(2), named, rows)
    _, second = theirs.roi_heads(named, proposals, [(PICTURE, PICTURE)] * 2, rows)
    names = {
        "loss_objectness": "loss_rpn_cls",
        "loss_rpn_box_reg": "loss_rpn_box",
        "loss_classifier": "loss_cls",
        "loss_box_reg": "loss_box",
    }
    return ours.losses(features, targets), {names[key]: value for key, value in (expected | second).items()}


def test_twenty_random_batches_give_torchvisions_losses_and_gradients(monkeypatch):
    for module in ("proposal_lesson", "faster_rcnn"):
        monkeypatch.setattr(f"fusion_det.heads.{module}.sample", draw_first)
    ours, theirs = parity_pair(rpn__count_train=300, rpn__per_level_train=200)
    theirs.rpn._pre_nms_top_n["training"], theirs.rpn._post_nms_top_n["training"] = 200, 300
    for seed, counts in random_batches():
        features, targets = features_of(seed), make_targets(counts, seed=seed)
        found, expected = losses_of_both(ours, theirs, features, targets)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.allclose(found[key], value, rtol=1e-4, atol=1e-6), (seed, key, found[key], value)
        assert (found["loss_box"] > 0) == (sum(counts) > 0)
    for losses in (found, expected):
        sum(losses.values()).backward()
    pairs = ((ours.rpn.convs[0], theirs.rpn.head.conv[0][0]), (ours.box_head.linears[0], theirs.roi_heads.box_head.fc6))
    for mine, other in pairs:
        assert (mine.weight.grad - other.weight.grad).abs().max() < 1e-4 * other.weight.grad.abs().max()


def test_class_agnostic_boxes_are_those_of_equal_deltas_per_class():
    """One box for all classes is what per-class boxes of equal weights are."""
    per_class, one = make(), make(class_agnostic=True)
    one.load_state_dict({key: value[:4] if key.startswith("box_deltas") else value for key, value in per_class.state_dict().items()})
    with torch.no_grad():
        per_class.box_deltas.weight.copy_(one.box_deltas.weight.repeat(CLASSES + 1, 1))
    features, targets = features_of(), make_targets([6, 2])
    found = []
    for head in (per_class, one):
        torch.manual_seed(0)
        found.append((head.losses(features, targets), head.predict(features, SIZES)))
    (losses, raw), (other_losses, other_raw) = found
    assert all(torch.allclose(losses[key], other_losses[key]) for key in losses)
    assert torch.allclose(raw.boxes, other_raw.boxes, atol=1e-3)
    assert one.box_deltas.out_features == 4


def test_sampling_counts_are_exact_and_follow_the_global_generator():
    generator = torch.Generator().manual_seed(0)
    share = torch.tensor([0.5, 0.02, 0.0, 1.0, 0.3])[:, None]
    positive = torch.rand(5, 400, generator=generator) < share
    negative = ~positive & (torch.rand(5, 400, generator=generator) < torch.tensor([0.9, 0.9, 0.9, 0.0, 0.05])[:, None])
    torch.manual_seed(1)
    drawn = sample(positive, negative, size=100, positive_share=0.25)
    assert drawn.column.shape == drawn.chosen.shape == (5, 100)
    for row in range(5):
        columns = drawn.column[row][drawn.chosen[row]]
        assert len(set(columns.tolist())) == len(columns)
        taken = int(positive[row][columns].sum())
        assert taken == min(25, int(positive[row].sum()))
        assert int(negative[row][columns].sum()) == len(columns) - taken == min(100 - taken, int(negative[row].sum()))
    torch.manual_seed(1)
    assert torch.equal(sample(positive, negative, size=100, positive_share=0.25).column, drawn.column)
    assert not torch.equal(sample(positive, negative, size=100, positive_share=0.25).column, drawn.column)
    often = torch.zeros(400)
    for _ in range(200):
        drawn = sample(positive, negative, size=100, positive_share=0.25)
        often[drawn.column[0][drawn.chosen[0]]] += 1
    assert often[positive[0]].min() > 0  # every positive has its turn


def test_objects_are_proposals_and_crowds_are_no_background(monkeypatch):
    head = make()
    lessons = []
    choose = head._choose
    monkeypatch.setattr(head, "_choose", lambda *args: lessons.append(choose(*args)) or lessons[-1])
    targets = make_targets([5, 2], crowds=[(0, 3)])
    targets.boxes[0, 3] = torch.tensor([0.0, 0.0, 70.0, 70.0])
    head.losses(features_of(), targets)
    (lesson,) = lessons
    for row in range(2):
        for box, label in zip(targets.boxes[row][targets.valid[row]], targets.labels[row][targets.valid[row]], strict=True):
            same = (lesson.boxes[row] == box).all(dim=1) & lesson.taught[row]
            assert (lesson.labels[row][same] == label + 1).any()
    background = lesson.taught[0] & (lesson.labels[0] == 0)
    x0, y0, x1, y1 = lesson.boxes[0][background].unbind(dim=1)
    inside = (torch.minimum(x1, torch.tensor(70.0)) - x0).clamp(min=0) * (torch.minimum(y1, torch.tensor(70.0)) - y0).clamp(min=0)
    assert (inside <= 0.5 * (x1 - x0) * (y1 - y0) + 1e-3).all()
    without = make(add_objects=False)
    assert without.losses(features_of(), targets)["loss_cls"].isfinite()


@pytest.mark.parametrize("training", [True, False])
def test_without_any_proposal_all_is_finite(training):
    head = make(rpn__score_threshold=1.0, add_objects=False)
    if training:
        losses = head.losses(features_of(), make_targets([3, 1]))
        sum(losses.values()).backward()
        assert losses["loss_cls"] == losses["loss_box"] == 0
        assert all(p.grad.isfinite().all() for p in head.parameters())
    else:
        raw = head.eval().predict(features_of(), SIZES)
        assert not raw.valid.any()
        assert raw.boxes.isfinite().all()


def test_five_thousand_objects_in_a_picture():
    head = make("faster_rcnn_small")
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(1, 5000, 2, generator=generator) * (PICTURE - 6)
    boxes = torch.cat([start, start + 1 + 4 * torch.rand(1, 5000, 2, generator=generator)], dim=2)
    flags = torch.ones(1, 5000, dtype=torch.bool)
    losses = head.losses(features_of(batch=1), Targets(boxes, torch.zeros(1, 5000).long(), flags, ~flags))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_box"] > 0


def test_numbers_that_are_none_come_out_of_both_stages():
    for layer, named in (
        ("rpn.objectness", "loss_rpn_cls"),
        ("rpn.deltas", "loss_rpn_box"),
        ("class_logits", "loss_cls"),
        ("box_deltas", "loss_box"),
    ):
        head = make("faster_rcnn_small")
        with torch.no_grad():
            head.get_submodule(layer).bias.fill_(torch.nan)
        assert head.losses(features_of(), make_targets([5, 2]))[named].isnan()
        raw = head.predict(features_of(), SIZES)
        seen = raw.scores.isnan() | raw.boxes.isnan().any(dim=2)
        assert (seen & raw.valid).any(), layer


def test_one_level_proposes_and_others_are_pooled():
    head = make(rpn__levels_used=["P4"], rpn__anchor_scales=[2.0, 4.0, 8.0], pool__levels_used=["P3", "P5"], pool__canonical_size=56.0)
    assert [level.name for level in head.rpn.levels] == ["P4"]
    assert head.rpn.objectness.out_channels == 9
    raw = head.eval().predict(features_of(), SIZES)
    assert set(raw.levels.unique().tolist()) == {1, 3}  # of the head's levels
    sum(head.train().losses(features_of(), make_targets([4, 1])).values()).backward()


def test_levels_go_with_the_size_as_in_torchvision():
    from torchvision.ops.poolers import LevelMapper

    head = make()
    side = torch.cat([torch.linspace(1, 1000, 500), torch.tensor([112.0, 224.0, 448.0, 111.999, 223.999])])
    boxes = torch.stack([side * 0, side * 0, side, side], dim=1)
    expected = LevelMapper(2, 5, 224, 4)([boxes])
    assert torch.equal(head.pool.assign(boxes[None])[0], expected)
    odd = torch.tensor([[0.0, 0.0, 0.0, 0.0], [torch.nan] * 4, [10.0, 10.0, 5.0, 5.0]])
    assert head.pool.assign(odd[None]).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("agnostic", [False, True])
@torch.no_grad()
def test_the_second_round_looks_where_the_first_has_moved_each_box(agnostic):
    one, two = (spread(make("faster_rcnn_small", class_agnostic=agnostic, rounds=rounds)).eval() for rounds in (1, 2))
    features = features_of()
    first, both = one.predict(features, SIZES), two.predict(features, SIZES)
    count = first.scores.shape[1]
    assert both.scores.shape[1] == 2 * count
    assert all(torch.equal(value, getattr(both, name)[:, :count]) for name, value in vars(first).items())
    proposals = one.rpn.find(features, SIZES.flip(1).repeat(1, 2)[:, None].float())
    logits, deltas, _ = one(features, proposals.boxes)
    rows = torch.zeros_like(logits[..., 0]).long() if agnostic else logits[..., 1:].argmax(dim=2) + 1
    own = deltas.gather(2, rows[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]
    moved = one.coder.decode(own, proposals.boxes).clamp(min=0, max=PICTURE)
    assert (moved - proposals.boxes).abs().max() > 1
    one.rpn.find = lambda *args: proposals._replace(boxes=moved)
    second = one.predict(features, SIZES)
    assert all(torch.equal(value, getattr(both, name)[:, count:]) for name, value in vars(second).items())


def test_four_convolutions_with_norm():
    head = make("faster_rcnn_small", box_head__convs=4, box_head__linears=1, box_head__norm="gn")
    assert [type(m).__name__ for m in head.box_head.convs] == ["Conv2d", "GroupNorm", "ReLU"] * 4
    sum(head.losses(features_of(), make_targets([4, 1])).values()).backward()
    assert all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rpn__levels_used": ["P9"]}, r"rpn.levels_used: expected names of the levels P2, .*P6, got \['P9'\]"),
        ({"pool__levels_used": []}, "pool.levels_used: expected names"),
        ({"rpn__anchor_sizes": [[8.0], [16.0]]}, "anchor_sizes for the 5 levels"),
        ({"rpn__negative_overlap": 0.8}, "negative_overlap <= positive_overlap"),
        ({"negative_overlap": 0.6}, "negative_overlap <= positive_overlap"),
        ({"box_weights": [1.0, 1.0]}, "four positive weights"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as refused:
        make(**changes)
    assert "\n" not in str(refused.value)


def test_reference_losses_are_as_we_read_them():
    """Guards the oracle: torchvision's second loss is divided by all drawn boxes."""
    logits, shifts = torch.zeros(4, CLASSES + 1), torch.ones(4, 4 * (CLASSES + 1))
    _, box_loss = fastrcnn_loss(logits, shifts, [torch.tensor([1, 0, 0, 0])], [torch.zeros(4, 4)])
    assert torch.isclose(box_loss, torch.tensor(4 * (1 - 0.5 / 9) / 4))
