"""The operators of RoI fusion as places that probes, bars and warnings see."""

from __future__ import annotations

import logging

import pytest
import torch
from head_cases import make_head
from head_cases import options as yaml_options
from torch import nn
from torch.nn import functional as F

from fusion_det.analysis.fusion_probe import fusion_probe
from fusion_det.analysis.fusion_tally import FusionTally, read_probes
from fusion_det.analysis.gate_overlays import gate_overlays
from fusion_det.analysis.weight_bars import weight_bars
from fusion_det.detector import Detector
from fusion_det.engine.fusion_log import FusionLog
from fusion_det.structures import ImageBatch, LevelSpec

LEVELS = [LevelSpec(f"P{i}", 3, 2**i) for i in (3, 4, 5)]
INPUTS = {
    "ion": ("P3", "P4", "P5", "context"),
    "adaptive": ("P3", "P4", "P5"),
    "context": ("box", "surroundings"),
    "level": ("own", "coarser1"),
}


class PooledPixels(nn.Module):
    def forward(self, pixels):
        return [F.avg_pool2d(pixels, level.stride) for level in LEVELS]


class Same(nn.Module):
    def forward(self, maps):
        return maps


def make_detector(kind, operator, **changes):
    node = yaml_options("roi_fusion", kind, **changes) | {"fusion": yaml_options("fusion", operator)}
    head = make_head("faster_rcnn_small", LEVELS, 2, roi_fusion=node)
    return Detector(PooledPixels(), Same(), head, lambda raw: raw, mean=[0.0] * 3, std=[64.0] * 3).eval()


def make_images(count=2, height=64, width=96):
    pixels = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    sizes = torch.tensor([[height, width], [40, 50]])[:count]
    return ImageBatch(pixels, sizes, torch.ones(count, 2), sizes, tuple(range(count)))


@pytest.mark.parametrize("operator", ["weighted_softmax", "aff", "sk", "add"])
@pytest.mark.parametrize("kind", INPUTS)
def test_each_kind_is_a_site_that_is_probed(kind, operator):
    changes = {"span": 2} if kind == "level" else {}
    detector = make_detector(kind, operator, **changes)
    (site,) = detector.fusion_sites()
    assert (site.name, site.level, site.stride, site.inputs) == (f"roi/{kind}", "RoI", 8, INPUTS[kind])
    assert site.operator is detector.head.roi_fusion.operator
    report = fusion_probe(detector, make_images())
    found = report[f"roi/{kind}"]
    if operator == "add":
        assert found.summary is None
        return
    assert found.summary.mean.shape == (len(INPUTS[kind]),)
    assert found.summary.mean.sum() == pytest.approx(1 if operator != "aff" else float(found.weights.sum(dim=1).mean()), abs=1e-4)
    assert weight_bars(report) is not None
    assert gate_overlays(report) is None  # boxes have no place on the sheet
    assert f"roi/{kind}" in str(report)
    assert f"fusion/roi/{kind}/{INPUTS[kind][0]}" in report.scalars()


def test_nothing_to_join_is_no_site():
    assert make_detector("level", "add").fusion_sites() == []
    head = make_head("hypernet_small", LEVELS, 2)
    assert head.fusion_sites() == []


def test_weights_of_boxes_are_those_of_their_picture():
    """Two pictures with three boxes each; the boxes of the second trust the other input."""
    site = make_detector("context", "aff").fusion_sites()[0]
    first = torch.tensor([0.9, 0.8, 0.7, 0.1, 0.1, 0.1]).view(6, 1, 1, 1).expand(-1, -1, 5, 5)
    site.operator.probe = lambda: {"weights": torch.cat([first, 1 - first], dim=1)}
    images = make_images()
    (found,) = read_probes([site], 2)
    assert found["weights"].shape == (2, 2, 15, 5)
    assert found["weights"][0, 0, :, 0].tolist() == pytest.approx([0.9] * 5 + [0.8] * 5 + [0.7] * 5)
    tally = FusionTally([site])
    tally.add(images, [found])
    summary = tally.report()["roi/context"].summary
    assert summary.mean.tolist() == pytest.approx([0.45, 0.55])
    assert summary.wins.tolist() == pytest.approx([0.5, 0.5])
    site.operator.probe = lambda: {"weights": torch.tensor([0.25, 0.75]).view(1, 2, 1, 1)}
    assert read_probes([site], 2)[0]["weights"].shape == (1, 2, 1, 1)  # the same for all boxes


def test_a_dead_input_of_boxes_is_warned_of(caplog):
    detector = make_detector("ion", "weighted_fast")
    (site,) = detector.fusion_sites()
    with torch.no_grad():
        site.operator.edge_weights.copy_(torch.tensor([1.0, 1.0, 1.0, -1.0]))
    log = FusionLog.__new__(FusionLog)
    log.drawn, log._maps, log._warned = {0: 0}, {}, set()
    images = make_images()
    with caplog.at_level(logging.WARNING), log.watching(detector) as watch, torch.no_grad():
        detector.predict_raw(images)
        watch(images)
    assert "dead input: roi/ion (RoI, stride 8, WeightedFast) does not use context" in caplog.text
    assert log.scalars()["fusion/roi/ion/P3"] == pytest.approx(1 / 3, abs=1e-3)
    assert [tag for tag, _ in log.pictures()] == ["fusion/weights"]
