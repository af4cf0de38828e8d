"""What the fusions of a detector decide: right names and numbers for every operator, and nothing left behind."""

from __future__ import annotations

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from probe_cases import make_detector, make_images
from torch import nn
from torch._dynamo.testing import CompileCounter

from fusion_det.analysis.fusion_probe import fusion_probe
from fusion_det.analysis.fusion_report import DEAD_REACH
from fusion_det.analysis.fusion_tally import FusionTally, read_probes
from fusion_det.config.cli import load_settings
from fusion_det.config.instantiate import build
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.fusion.aff import AFF
from fusion_det.fusion.cross_attention import CrossAttention
from fusion_det.fusion.fold import GatedPair
from fusion_det.fusion.max import Max
from fusion_det.fusion.operator import FusionOperator, Remembers, remembering
from fusion_det.fusion.weighted_fast import WeightedFast
from fusion_det.inference import LoadedDetector
from fusion_det.necks.operators.global_pooling import GlobalPooling
from fusion_det.structures import FusionSite

OPERATORS = sorted((default_config_dir() / "fusion").glob("*.yaml"), key=lambda path: path.stem)
DECIDE = {"max", "weighted_fast", "weighted_softmax", "se", "eca", "cbam", "ms_cam", "sk", "aff", "iaff", "gau", "sa", "spatial_softmax"}
DECIDE |= {"spatial_softmax_afpn", "cross_attention", "hard"}


class Told(FusionOperator):
    """Decides what it is told."""

    def __init__(self, **probes: torch.Tensor) -> None:
        super().__init__(1, 2)
        self.told = probes

    def probe(self):
        return self.told


def tally_of(*batches, inputs=("C4", "M5")):
    """The only site of the report on batches of (images, probes)."""
    tally = FusionTally([FusionSite("neck/M4", "P4", 16, inputs, Told())])
    for images, probes in batches:
        tally.add(images, [probes])
    return tally.report()["neck/M4"]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def test_weights_set_by_hand_come_back_with_their_names():
    detector = make_detector(WeightedFast)
    m4, m3 = (site.operator for site in detector.fusion_sites())
    m4.edge_weights.data = torch.tensor([3.0, 1.0])
    m3.edge_weights.data = torch.tensor([1.0, -1.0])
    report = fusion_probe(detector, make_images((64, 96), (40, 96)))
    assert [(s.name, s.level, s.stride, s.inputs, s.operator) for s in report] == [
        ("neck/M4", "P4", 16, ("C4", "C5"), "WeightedFast"),
        ("neck/M3", "P3", 8, ("C3", "M4"), "WeightedFast"),
    ]
    assert report.pictures == 2
    four, three = report["neck/M4"], report["neck/M3"]
    assert four.weights.shape == (1, 2, 1, 1)
    assert four.summary.mean.tolist() == pytest.approx([3 / 4.0001, 1 / 4.0001])
    assert four.summary.entropy == pytest.approx(0.8112781, abs=1e-6)  # bits of (3/4, 1/4)
    assert four.summary.shares.tolist() == pytest.approx([0.75, 0.25])
    assert three.summary.mean.tolist() == pytest.approx([1 / 1.0001, 0])
    assert three.summary.entropy == 0
    assert [(site.name, name) for site, name in report.dead] == [("neck/M3", "M4")]
    assert report.scalars() == {
        "fusion/neck/M4/C4": pytest.approx(3 / 4.0001),
        "fusion/neck/M4/C5": pytest.approx(1 / 4.0001),
        "fusion/neck/M4/entropy": pytest.approx(0.8112781, abs=1e-6),
        "fusion/neck/M3/C3": pytest.approx(1 / 1.0001),
        "fusion/neck/M3/M4": 0.0,
        "fusion/neck/M3/entropy": 0.0,
    }
    assert report.levels()["P3"] == (1, 1, 1.0, 0.0, 1)
    assert report.levels()["P4"] == (1, 1, pytest.approx(0.75), pytest.approx(0.8112781, abs=1e-6), 0)
    lines = str(report).splitlines()
    assert lines[2].split() == ["neck/M3", "8", "WeightedFast", "0.00", "C3", "1.000", "M4", "0.000", "dead"]
    with pytest.raises(KeyError, match=r"no fusion site 'neck/M9'; there are .*neck/M4"):
        report["neck/M9"]


def test_positions_count_alike_and_padding_not_at_all():
    first = [[0.25, 1.0, 0.0, 0.0], [0.5, 0.75, 0.0, 0.0]]  # the right half of this picture is padding
    second = [[0.5] * 4, [1.0] * 4]
    own = torch.tensor([first, second])
    images = make_images((64, 50), (64, 96), height=64, width=96)  # 50 of 96 columns touch 3 of 4 cells
    own[0, :, 2] = 0.875
    own[0, :, 3] = 1000.0  # padding must not be seen
    site = tally_of((images, {"weights": torch.stack([own, 1 - own], dim=1)}))
    mean = (np.mean([0.25, 1.0, 0.875, 0.5, 0.75, 0.875]) + 0.75) / 2
    assert site.summary.mean.tolist() == pytest.approx([mean, 1 - mean])
    wins = (4.5 / 6 + 0.75) / 2  # 0.25 loses and 0.5 is shared; in the second picture one row is shared
    assert site.summary.wins.tolist() == pytest.approx([wins, 1 - wins])
    assert site.summary.reach.tolist() == pytest.approx([1.0 / 0.5, 0.75 / 0.5])

    def bits(p):
        return 0.0 if p in (0, 1) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)

    entropy = (np.mean([bits(p) for p in (0.25, 1.0, 0.875, 0.5, 0.75, 0.875)]) + np.mean([bits(0.5), bits(1.0)])) / 2
    assert site.summary.entropy == pytest.approx(entropy, abs=1e-6)
    assert site.probes == {}


@pytest.mark.parametrize("size", [(2, 3), (1, 1)])
def test_batches_of_an_evaluation_count_by_their_pictures(size):
    weights = torch.rand(5, 2, *size, generator=torch.Generator().manual_seed(0))
    batches = [(make_images(*[(64, 96)] * (stop - start)), {"weights": weights[start:stop]}) for start, stop in ((0, 3), (3, 4), (4, 5))]
    apart, together = tally_of(*batches), tally_of((make_images(*[(64, 96)] * 5), {"weights": weights}))
    for name in ("mean", "wins", "reach"):
        assert torch.allclose(getattr(apart.summary, name), getattr(together.summary, name)), name
    assert apart.summary.mean.tolist() == pytest.approx(weights.mean((0, 2, 3)).tolist())
    assert apart.summary.entropy == pytest.approx(together.summary.entropy)


@pytest.mark.parametrize(("highest", "dead"), [(0.0, ("M5",)), (0.9 * DEAD_REACH, ("M5",)), (2.2 * DEAD_REACH, ()), (0.5, ())])
def test_an_input_is_dead_only_if_it_is_off_at_every_position(highest, dead):
    """The node's average weight is (2 + about 0) / 2, so weights are their own reach."""
    other = torch.zeros(1, 1, 4, 6)
    other[0, 0, 2, 3] = highest
    site = tally_of((make_images((64, 96)), {"weights": torch.cat([torch.full_like(other, 2.0), other], dim=1)}))
    assert site.dead == dead


def test_a_choice_that_is_never_the_likeliest_is_alive_while_it_is_drawn():
    chosen = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    for probability, dead in ((0.3, ()), (0.0004, ("M5",))):
        probabilities = torch.tensor([1 - probability, probability]).view(1, 2, 1, 1)
        site = tally_of((make_images((64, 96)), {"weights": chosen, "probabilities": probabilities}))
        assert (site.dead, site.summary.mean.tolist()) == (dead, [1.0, 0.0])


def test_all_inputs_of_a_silenced_node_are_dead():
    assert tally_of((make_images((64, 96)), {"weights": torch.zeros(1, 2, 1, 1)})).dead == ("C4", "M5")


@pytest.mark.parametrize("path", OPERATORS, ids=lambda path: path.stem)
def test_every_operator_reports_weights_or_decides_nothing(path):
    detector = make_detector(partial(build, yaml.safe_load(path.read_text())), channels=16).train()
    images = make_images((64, 96), (40, 96))
    report = fusion_probe(detector, images)
    assert [site.inputs for site in report] == [("C4", "C5"), ("C3", "M4")]
    for site, (height, width) in zip(report, [(4, 6), (8, 12)], strict=True):
        if path.stem not in DECIDE and site.weights is None:
            assert (dict(site.probes), site.summary, site.dead) == ({}, None, ())
            continue
        assert all(site.weights.shape[axis] in (1, full) for axis, full in ((0, 2), (2, height), (3, width)))
        assert site.weights.shape[1] == 2
        for name, probe in site.probes.items():
            assert probe.dtype == torch.float32, name
            assert torch.isfinite(probe).all(), name
            assert (probe.device.type, probe.requires_grad) == ("cpu", False), name
        assert site.summary.mean.tolist() == pytest.approx(_mean_over_pictures(site.weights, images).tolist(), abs=1e-5)
        assert 0 <= site.summary.entropy <= 1 + 1e-6
        assert site.summary.wins.sum() == pytest.approx(1)


def _mean_over_pictures(weights, images):
    """The slow way: cut each picture's own cells out, then take means."""
    means = []
    for row, (height, width) in enumerate(images.sizes.tolist()):
        own = weights[min(row, len(weights) - 1)]
        rows, columns = math.ceil(height / 64 * own.shape[1]), math.ceil(width / 96 * own.shape[2])
        means.append(own[:, :rows, :columns].mean((1, 2)))
    return torch.stack(means).mean(0)


def test_quick_probes_equal_the_slow_way():
    maps = [torch.randn(2, 16, 4, 6, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    operator = Max(16, 3)
    fused = operator([maps[0], maps[1], maps[2].where(maps[2] > 0, maps[0])])  # with ties, which the first one wins
    winner = torch.stack(list(operator.remembered.values())).max(dim=0)
    assert torch.equal(winner.values, fused)
    slow = torch.stack([(winner.indices == i).float().mean(1) for i in range(3)], dim=1)
    assert torch.allclose(operator.probe()["weights"], slow)
    pair = AFF(16, 2).eval()
    pair(maps[:2])
    gate = pair.fold.pairs[0].gate
    assert torch.allclose(pair.probe()["weights"], torch.stack([2 * gate.mean(1), (2 - 2 * gate).mean(1)], dim=1), atol=1e-6)
    attention = CrossAttention(16, 3)
    attention(maps)
    assert torch.allclose(attention.probe()["weights"].sum(1), torch.ones(2, 4, 6))


def test_operators_of_a_neck_report_as_well():
    report = fusion_probe(make_detector(GlobalPooling), make_images((64, 96)))
    assert report["neck/M4"].weights.shape == (1, 2, 1, 1)
    assert report["neck/M4"].probes["gate"].shape == (1, 8, 1, 1)


def test_nothing_is_left_on_kept_or_saved():
    detector = make_detector(partial(AFF, norm="bn")).train()
    norm = next(module for module in detector.modules() if isinstance(module, nn.BatchNorm2d))
    norm.eval()
    modes = [module.training for module in detector.modules()]
    state = {name: value.clone() for name, value in detector.state_dict().items()}
    report = fusion_probe(detector, make_images((64, 96)))
    assert report["neck/M4"].weights is not None
    assert [module.training for module in detector.modules()] == modes
    assert detector.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in detector.state_dict().items())
    detector.features(make_images((64, 96)))
    for part in detector.modules():
        if isinstance(part, Remembers):
            assert part.remembers is False
            assert (part.gate if isinstance(part, GatedPair) else part.remembered or None) is None


def test_switches_go_back_after_a_failure_and_to_what_they_were():
    detector = make_detector(AFF)
    sites = detector.fusion_sites()
    sites[0].operator.remembers = sites[0].operator.fold.pairs[0].remembers = True  # somebody watches this one

    def fail():
        with remembering(detector):
            detector.features(make_images((64, 96)))
            assert all(site.operator.probe() for site in sites)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    assert [bool(site.operator.probe()) for site in sites] == [True, False]


def test_copies_and_state_while_remembering():
    detector = make_detector(AFF)
    names = set(detector.state_dict())
    with remembering(detector):
        detector.features(make_images((64, 96)))
        weights = [site.operator.probe()["weights"] for site in detector.fusion_sites()]
        twin = copy.deepcopy(detector)
        assert set(detector.state_dict()) == set(twin.state_dict()) == names
        assert all(torch.equal(s.operator.probe()["weights"], w) for s, w in zip(twin.fusion_sites(), weights, strict=True))


def test_a_compiled_operator_is_compiled_once_however_often_the_detector_is_probed():
    detector, counter = make_detector(AFF).eval(), CompileCounter()
    operator = detector.fusion_sites()[0].operator
    compiled, maps = torch.compile(operator, backend=counter), [torch.rand(1, 8, 4, 6)] * 2
    before = compiled(maps)
    graphs = counter.frame_count
    fusion_probe(detector, make_images((64, 96)))
    assert torch.equal(compiled(maps), before)
    assert counter.frame_count == graphs > 0


def test_weights_of_a_wrong_shape_are_named():
    site = FusionSite("neck/M4", "P4", 16, ("C4", "M5"), Told(weights=torch.ones(1, 3, 1, 1)))
    with pytest.raises(ValueError, match=r"Told at neck/M4: expected probed weights \[B, 2, h, w\], got \[1, 3, 1, 1\]"):
        read_probes([site], 2)


@pytest.fixture(scope="module")
def loaded():
    words = ["data=coco", "data.root=/nowhere", "data.image_size=64", "neck=aff_fpn", "neck.channels=8", "head.num_convs=1"]
    words += ["trainer.precision=bf16", "backbone.stem_width=8", "backbone.widths=[8,8,8,8]", "backbone.depths=[1,1,1,1]"]
    config = load_settings(get_tool("train"), words, default_config_dir()).plain()
    state = {"config": config, "class_names": ["a"], "category_ids": [1], "image_size": 64, "ema": None}
    from fusion_det.build import build_detector

    state["model"] = build_detector(config, 1, seed=0).state_dict()
    return LoadedDetector(state, device=torch.device("cpu"), use_ema=False, where="test")


def test_pictures_of_a_loaded_detector(loaded):
    landscape, portrait = np.full((30, 60, 3), 90, dtype=np.uint8), np.full((60, 30, 3), 90, dtype=np.uint8)
    report = fusion_probe(loaded, landscape)
    assert report.images.pixels.shape == (1, 3, 64, 64)  # 48 is no multiple of 32, so there is one bucket
    both = fusion_probe(loaded, [landscape, portrait])
    assert both.pictures == 2
    assert both["neck/M3"].weights.shape == (2, 2, 8, 8)
    assert both["neck/M3"].weights.dtype == torch.float32
    assert torch.allclose(both["neck/M3"].weights[:1], report["neck/M3"].weights, atol=0.02)
    assert both.images.sizes.tolist() == [[32, 64], [64, 32]]
    with pytest.raises(ValueError, match="at least one picture"):
        fusion_probe(loaded, [])
    with pytest.raises(TypeError, match="expected an ImageBatch for a bare detector, got str; a loaded detector takes picture files"):
        fusion_probe(loaded.model, "a.jpg")
