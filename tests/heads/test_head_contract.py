"""What every head under configs/head must do: found by listing the folder."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from head_cases import CONFIGS, make_features, make_head, make_targets, options
from torch.utils._python_dispatch import TorchDispatchMode

from fusion_det.build import dry_run
from fusion_det.config.cli import load_settings
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.errors import ConfigError, FusionDetError
from fusion_det.structures import LevelSpec, RawDetections, Targets

HEADS = sorted(file.stem for file in (CONFIGS / "head").glob("*.yaml"))
# Six levels, as the official SSD has, so that every head fits; 64 channels, so that GroupNorm has two values on a map of one pixel.
LEVELS = [LevelSpec(f"P{i}", 64, 2**i) for i in range(3, 9)]
PICTURE = 128
SHAPES = [(max(1, PICTURE // level.stride),) * 2 for level in LEVELS]
CLASSES = 4
SIZES = torch.tensor([[PICTURE, PICTURE]] * 2)


# Fully connected layers over 512 boxes of each image would take most of the time.
HYPERNET, MSCNN = options("head", "hypernet"), options("head", "mscnn")
SMALLER = {
    "faster_rcnn": {"samples": 64},
    "hypernet": {"samples": 64, "rpn": HYPERNET["rpn"] | {"count_train": 40}, "box_head": HYPERNET["box_head"] | {"width": 64}},
    "mscnn": {"rpn": MSCNN["rpn"] | {"count_train": 40, "count_test": 40}, "box_head": MSCNN["box_head"] | {"width": 64}},
}
TWO_STAGES = ("faster_rcnn", "hypernet")


def head_of(name):
    return make_head(name, levels=LEVELS, classes=CLASSES, **SMALLER.get(name, {}))


def features_of(batch=2, seed=0):
    return make_features(batch, seed, LEVELS, SHAPES)


def targets_of(counts, **changes):
    return make_targets(counts, picture=PICTURE, classes=CLASSES, **changes)


def one_pixel_boxes():
    targets = targets_of([6, 2])
    corner = torch.randint(0, PICTURE - 1, (2, 16, 2), generator=torch.Generator().manual_seed(0)).float()
    return Targets(torch.cat([corner, corner + 1], dim=2) * targets.valid[..., None], targets.labels, targets.valid, targets.crowd)


def whole_picture():
    targets = targets_of([1, 1])
    targets.boxes[:, 0] = torch.tensor([0.0, 0.0, PICTURE, PICTURE])
    return targets


def everything_ignored():
    """A crowd region far beyond the picture on every side, and nothing else."""
    targets = targets_of([1, 1], crowds=[(0, 0), (1, 0)])
    targets.boxes[:, 0] = torch.tensor([-2000.0, -2000.0, 2000.0, 2000.0])
    return targets


BATCHES = {
    "objects": targets_of([5, 2]),
    "empty": targets_of([0, 0]),
    "one_empty": targets_of([3, 0]),
    "all_crowd": targets_of([3, 4], crowds=[(i, j) for i in range(2) for j in range(4) if (i, j) != (0, 3)]),
    "all_ignored": everything_ignored(),
    "one_pixel": one_pixel_boxes(),
    "whole_picture": whole_picture(),
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", HEADS)
def test_losses_are_finite_scalars_that_touch_every_parameter(name, batch):
    head = head_of(name)
    losses = head.losses(features_of(), BATCHES[batch])
    assert all(key.startswith("loss_") for key in losses)
    assert all(loss.shape == () and loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    untouched = [key for key, p in head.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not untouched


@pytest.mark.parametrize("name", HEADS)
def test_objects_teach_boxes_and_empty_pictures_do_not(name):
    for batch, taught in (("objects", True), ("empty", False), ("all_crowd", False)):
        head = head_of(name)
        losses = head.losses(features_of(), BATCHES[batch])
        assert (losses["loss_box"] > 0) == taught
        losses["loss_box"].backward()
        assert any(bool(p.grad.any()) for p in head.parameters() if p.grad is not None) == taught


@pytest.mark.parametrize("name", HEADS)
def test_where_all_is_ignored_nothing_is_taught(name):
    head = head_of(name)
    losses = head.losses(features_of(), BATCHES["all_ignored"])
    assert sum(losses.values()) == 0
    sum(losses.values()).backward()
    assert not any(p.grad.any() for p in head.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_losses_repeat_bit_for_bit_in_deterministic_mode(name):
    head, found = head_of(name), []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            head.zero_grad()
            torch.manual_seed(0)  # two-stage heads draw what they teach
            sum(head.losses(features_of(), BATCHES["objects"]).values()).backward()
            found.append([p.grad for p in head.parameters()])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("batch", ["objects", "one_pixel", "empty"])
@pytest.mark.parametrize("name", HEADS)
def test_bf16_autocast_keeps_losses_in_fp32(name, batch):
    head = head_of(name)
    expected = head.losses(features_of(), BATCHES[batch])
    with torch.autocast("cpu", torch.bfloat16):
        losses = head.losses(features_of(), BATCHES[batch])
        raw = head.predict(features_of(), SIZES)
    assert raw.boxes.dtype == raw.scores.dtype == torch.float32
    for key, loss in losses.items():
        assert loss.dtype == torch.float32
        assert torch.isclose(loss, expected[key], rtol=0.05, atol=1e-3), (key, loss, expected[key])
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_predictions_are_padded_clipped_and_know_their_level(name):
    everything = {"candidates_per_class": 10_000} if name.startswith("ssd") else {}
    head, sizes = make_head(name, LEVELS, CLASSES, **everything).eval(), torch.tensor([[128, 128], [50, 100]])
    raw = head.predict(features_of(), sizes)
    assert isinstance(raw, RawDetections)
    batch, count = raw.scores.shape
    assert batch == 2
    assert raw.boxes.shape == (2, count, 4)
    assert raw.labels.shape == raw.levels.shape == raw.valid.shape == (2, count)
    assert raw.labels.dtype == raw.levels.dtype == torch.int64
    assert raw.labels.min() >= 0
    assert raw.labels.max() < CLASSES
    fired = set(raw.levels.unique().tolist())
    if name.startswith(TWO_STAGES):
        assert fired <= {0, 1, 2}  # the levels up to stride 32 that fit such small boxes; more in test_faster_rcnn.py
    elif name.startswith("mscnn"):
        assert {0, 1, 2} <= fired  # templates of the coarsest levels are larger than the picture and suppress each other
    else:
        assert fired == set(range(6))
    assert raw.scores.min() >= 0
    assert raw.scores.max() <= 1
    assert torch.equal(raw.valid, raw.scores > head.score_threshold)
    for row, (height, width) in enumerate(sizes.tolist()):
        assert raw.boxes[row].min() >= 0
        assert raw.boxes[row, :, [0, 2]].max() <= width
        assert raw.boxes[row, :, [1, 3]].max() <= height
        assert (raw.boxes[row, :, 2:] >= raw.boxes[row, :, :2]).all()


class Calls(TorchDispatchMode):
    """Counts what is computed; refuses whatever makes a host wait for its device."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "is_nonzero", "equal")

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in self.WAITS, f"{name} makes the host wait"
        if name in ("index", "index_put_", "index_put"):
            assert not any(index is not None and index.dtype == torch.bool for index in args[1]), "an index by mask makes the host wait"
        assert name != "lift_fresh", "a tensor made of Python numbers is copied from the host in every step"
        self.counts[name] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", HEADS)
def test_no_wait_and_no_loop_over_images(name):
    head, counts = head_of(name), []
    head.losses(features_of(), targets_of([3, 3]))  # anchors are made once
    for batch in (2, 5):
        head.zero_grad()
        features, targets = features_of(batch), targets_of([3] * batch)
        with Calls() as calls:
            losses = head.losses(features, targets)
            sum(losses.values()).backward()
        counts.append(calls.counts)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", [name for name in HEADS if name.endswith("_small")])
def test_losses_compile_into_one_graph(name):
    """Without code generation: what cannot be captured is refused (``fullgraph``)."""
    torch.compiler.reset()
    head, features, targets = make_head(name, LEVELS[:2], CLASSES), features_of()[:2], targets_of([5, 2])
    compiled = torch.compile(head.losses, backend="eager", fullgraph=True)
    losses = []
    for compute in (head.losses, compiled):
        torch.manual_seed(0)  # two-stage heads draw what they teach
        losses.append(compute(features, targets))
    expected, found = losses
    for key in expected:
        assert torch.allclose(expected[key], found[key], rtol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_rehearsal_without_values(name):
    with torch.device("meta"):
        head = head_of(name)
    features = [torch.empty(f.shape, device="meta") for f in features_of()]
    losses = head.losses(features, targets_of([2, 2]).to("meta"))
    assert all(loss.shape == () for loss in losses.values())
    assert head.predict(features, torch.empty(2, 2, dtype=torch.int64, device="meta")).boxes.shape[0] == 2


@pytest.mark.parametrize("name", HEADS)
def test_training_goes_on_after_inference_mode_and_copies_are_independent(name):
    head = head_of(name)
    with torch.inference_mode():
        head.eval().predict(features_of(), SIZES)
    sum(head.train().losses(features_of(), BATCHES["objects"]).values()).backward()
    before = head.eval().predict(features_of(), SIZES)
    twin = copy.deepcopy(head)
    with torch.no_grad():
        next(head.parameters()).add_(1)
    after = twin.predict(features_of(), SIZES)
    assert torch.equal(before.scores, after.scores)
    assert not any("anchor" in key or "cell" in key for key in head.state_dict())  # they follow from the config


@pytest.mark.parametrize("name", HEADS)
def test_logits_that_are_no_numbers_are_not_swallowed(name):
    """Neither by a mask in the losses (the trainer stops and names the loss) nor by the score threshold (the evaluator refuses them)."""
    head = head_of(name)
    with torch.no_grad():
        logits = head.class_logits[0] if isinstance(head.class_logits, torch.nn.ModuleList) else head.class_logits
        logits.bias[0] = torch.nan
    losses = head.losses(features_of(), BATCHES["objects"])
    assert not torch.isfinite(losses["loss_cls"])
    raw = head.predict(features_of(), SIZES)
    assert (raw.scores.isnan() & raw.valid).any()


@pytest.mark.parametrize("name", HEADS)
def test_what_cannot_be_built_is_refused_in_one_line(name):
    cases = [
        ([], CLASSES, "at least one level"),
        (LEVELS[::-1], CLASSES, "fine to coarse"),
        (LEVELS, 0, "at least one class, got 0"),
    ]
    if not name.startswith(("ssd", "mscnn")):  # whose levels may differ in width
        cases.append(([LEVELS[0], LevelSpec("P4", 32, 16), *LEVELS[2:]], CLASSES, r"one width .* got P3 64, P4 32.* channels"))
    for levels, classes, message in cases:
        with pytest.raises((ValueError, FusionDetError), match=message) as refused:
            make_head(name, levels=levels, classes=classes)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", HEADS)
def test_maps_of_other_levels_are_refused(name):
    with pytest.raises(ValueError, match=r"levels|shorter|longer"):
        head_of(name).losses(features_of()[:-1], BATCHES["objects"])


def settings_of(*words):
    return load_settings(get_tool("train"), list(words), default_config_dir()).plain()


@pytest.mark.parametrize("name", HEADS)
def test_every_head_goes_with_a_neck_of_as_many_levels(name):
    neck = ["neck=fpn", "neck.channels=64", "neck.extra.count=3"] if name == "ssd" else []
    found = dry_run(settings_of(f"head={name}", *neck))
    assert found.sizes is not None  # it was run, not only built


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["head=ssd"], r"one entry of min_sizes for each of the 3 levels \['P3', 'P4', 'P5'\], got 6; .* head=ssd_small"),
        (["head=retinanet", "head.anchor_sizes=[[32],[64]]"], r"anchor_sizes for the 3 levels .* got \[\[32\], \[64\]\]"),
        (["head=ssd_small", "head.steps=[8,16,200]"], "step 200 of P5 does not go with the level's stride 32"),
    ],
)
def test_what_does_not_fit_the_neck_is_one_line_before_any_data(words, message):
    with pytest.raises(ConfigError, match=message) as refused:
        dry_run(settings_of(*words))
    assert refused.value.where == "head"
    assert len(refused.value.lines) == 1
