"""Counts against hand-made sums and published numbers."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn
from torchvision.ops import deform_conv2d

from fusion_det.analysis.cost import cost_of, count_cost
from fusion_det.analysis.operations import counting
from fusion_det.config.cli import load_settings
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.detector import Detector
from fusion_det.necks.fusion_neck import FusionNeck
from fusion_det.structures import LevelSpec, RawDetections

R50 = "backbone=fusion_resnet backbone.block=bottleneck backbone.depths=[3,4,6,3]"
WORDS = {
    "retinanet": f"{R50} neck=fpn neck.extra.count=2 neck.extra.kind=conv_on_output head=retinanet",
    "fcos": f"{R50} neck=fpn neck.extra.count=2 neck.extra.kind=conv_on_output head=fcos",
    "faster_rcnn": f"{R50} backbone.first_stride=4 neck=fpn neck.extra.count=1 head=faster_rcnn",
    "ssd": "backbone=vgg16 neck=ssd neck.widths=1.0 neck.extra.widths=[512,256,256,256] neck.extra.unpadded=2 head=ssd",
}


@cache
def config(words: str) -> dict:
    return load_settings(get_tool("train"), ["experiment=null", *words.split()], default_config_dir()).plain()


class Backbone(nn.Module):
    """3 -> 4 channels, 3x3, stride 2; frozen."""

    mean, std = [0.0] * 3, [1.0] * 3

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv.requires_grad_(False)
        self.levels = (LevelSpec("C1", 4, 2),)

    def forward(self, x):
        return [self.norm(self.conv(x)).relu()]


class Neck(nn.Module):
    """Grouped 4 -> 6 channels, then twice the size by a transposed convolution of 2x2."""

    def __init__(self):
        super().__init__()
        self.conv, self.up = nn.Conv2d(4, 6, 1, groups=2), nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.levels = (LevelSpec("P0", 5, 1),)

    def forward(self, maps):
        return [self.up(self.conv(maps[0]))]


class Head(nn.Module):
    """A linear layer over positions, a product of two maps, and a choice."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 7)
        self.box_head = nn.Linear(7, 2)

    def predict(self, maps, sizes):
        rows = self.linear(maps[0].flatten(2).transpose(1, 2))  # [1, H W, 7]
        scores = (rows @ rows.transpose(1, 2)).amax(2)  # [1, H W]
        best = scores.topk(3, dim=1).indices
        self.box_head(rows[0].index_select(0, best[0]))
        return RawDetections(*[scores] * 5)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_small_net_is_counted_as_by_hand(device):
    with torch.device(device):
        detector = Detector(Backbone(), Neck(), Head(), list, mean=[0.0] * 3, std=[1.0] * 3)
    cost = count_cost(detector.train(), (8, 6))
    assert detector.training
    backbone, neck, head = cost.parts["backbone"], cost.parts["neck"], cost.parts["head"]
    assert (backbone.parameters, backbone.trainable) == (3 * 4 * 9 + 8, 8)
    assert (backbone.macs, backbone.activations) == (4 * 3 * (3 * 4 * 9), 4 * 3 * 4)
    assert neck.parameters == (6 * 2 + 6) + (6 * 5 * 4 + 5)
    assert (neck.macs, neck.activations) == (12 * (6 * 2) + 12 * (6 * 5 * 4), 12 * 6 + 48 * 5)
    assert (head.macs, head.activations) == (48 * 5 * 7 + 48 * 48 * 7 + 3 * 7 * 2, 48 * 7 + 3 * 2)
    assert cost.total.flops == 2 * (backbone.macs + neck.macs + head.macs)
    assert cost.total.parameters == sum(p.numel() for p in detector.parameters())
    assert cost.proposals == 3
    assert cost.uncounted["batch_norm"] == (1, 48)
    assert {"relu", "amax", "topk"} <= cost.uncounted.keys()
    assert not {"convolution", "addmm", "bmm", "transpose", "index_select"} & cost.uncounted.keys()
    assert [found.elements for found in cost.uncounted.values()] == sorted((f.elements for f in cost.uncounted.values()), reverse=True)


def test_deformable_convolution_counts_its_product_and_attention_its_two():
    with torch.device("meta"), counting() as found:
        deform_conv2d(torch.zeros(2, 4, 5, 6), torch.zeros(2, 18, 5, 6), torch.zeros(8, 4, 3, 3), padding=1)
    assert (found.flops, found.activations) == (2 * (2 * 8 * 30) * (4 * 9), 2 * 8 * 30)
    assert found.uncounted == {"deform_conv2d: its sampling": (1, 480)}
    attention = nn.MultiheadAttention(8, 2, batch_first=True, bias=False).eval()
    x = torch.zeros(1, 10, 8)
    with torch.no_grad(), counting() as found:
        attention(x, x, x)
    assert found.flops == 2 * (4 * 10 * 8 * 8 + 2 * 10 * 10 * 8)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("model", "classes", "size", "published"),
    [("retinanet", 91, 800, 151.54), ("fcos", 91, 800, 128.207), ("faster_rcnn", 90, 800, 134.38), ("ssd", 90, 300, 34.858)],
)
def test_torchvisions_detectors_cost_what_its_page_of_weights_says(model, classes, size, published):
    cost = cost_of(config(WORDS[model]), classes, (size, size))
    assert cost.total.macs / 1e9 == pytest.approx(published, rel=5e-5)
    assert cost.proposals == (1000 if model == "faster_rcnn" else None)


def test_resnet_50_has_the_macs_and_activations_of_the_literature():
    cost = cost_of(config(WORDS["fcos"]), 10, (224, 224)).parts["backbone"]
    assert cost.macs / 1e9 == pytest.approx(4.1, abs=0.05)  # timm: 4.1 GMAC with its last layer, which has 2 M
    assert cost.activations / 1e6 == pytest.approx(11.1, abs=0.05)  # timm and the RegNet paper
    assert cost.parameters == 23_508_032  # torchvision's 25,557,032 without the last layer of 2,049,000


def test_parts_that_look_at_values_are_run_in_memory(monkeypatch):
    cfg = config("backbone.stem_width=8 backbone.widths=[8,8,8,8] backbone.depths=[1,1,1,1] neck.channels=8")
    expected, forward, used = cost_of(cfg, 3, (64, 64)), FusionNeck.forward, []

    def picky(self, features):
        used.append(features[0].device.type)
        return forward(self, features) if features[0].sum() < 1e9 else []

    monkeypatch.setattr(FusionNeck, "forward", picky)
    assert cost_of(cfg, 3, (64, 64)).parts == expected.parts
    assert used == ["meta", "cpu"]
