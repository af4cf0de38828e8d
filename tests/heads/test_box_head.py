"""From pooled maps to vectors: dropout and VGG16's linear layers."""

from __future__ import annotations

import pytest
import torch
from head_cases import make_head
from head_cases import options as yaml_options
from torch import nn
from torch.nn import functional as F

from fusion_det.errors import CheckpointError, ConfigError
from fusion_det.heads import vgg16_linears
from fusion_det.heads.box_head import BoxHead
from fusion_det.heads.vgg16_linears import load_vgg16_linears
from fusion_det.structures import LevelSpec

KEYS = {"convs": 0, "conv_width": 8, "norm": "none", "linears": 2, "width": 64}


def test_dropout_follows_both_layers_and_rests_in_evaluation():
    torch.manual_seed(0)
    plain, dropped = BoxHead(3, 5, 0, **KEYS), BoxHead(3, 5, 0, **KEYS, dropout=0.25)
    dropped.load_state_dict(plain.state_dict())  # the same names with and without
    assert list(plain.state_dict()) == ["linears.0.weight", "linears.0.bias", "linears.2.weight", "linears.2.bias"]
    x = torch.randn(400, 3, 5, 5)
    with torch.no_grad():
        assert torch.equal(plain(x), dropped.eval()(x))
        zeros = [(head(x) == 0).float().mean() for head in (plain, dropped.train())]
    assert zeros[1] > zeros[0] + 0.5 * 0.25 * (1 - zeros[0])
    probe = BoxHead(1, 1, 0, **KEYS | {"linears": 1}, dropout=0.25)
    nn.init.ones_(probe.linears[0].bias)
    nn.init.zeros_(probe.linears[0].weight)
    out = probe(torch.zeros(1000, 1, 1, 1))
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert (out == 0).float().mean() == pytest.approx(0.25, abs=0.01)


SIZES = [(2 * 9, 7), (7, 7)]
"""In the place of (512 x 49, 4096), (4096, 4096)."""


@pytest.fixture
def weight_file(tmp_path, monkeypatch):
    monkeypatch.setattr(vgg16_linears, "SHAPES", SIZES)
    generator = torch.Generator().manual_seed(0)
    state = {"classifier.6.bias": torch.zeros(3), "features.0.weight": torch.zeros(1)}
    for number, (inputs, outputs) in zip((0, 3), SIZES, strict=True):
        state[f"classifier.{number}.weight"] = torch.randn(outputs, inputs, generator=generator)
        state[f"classifier.{number}.bias"] = torch.randn(outputs, generator=generator)
    torch.save(state, tmp_path / "vgg16.pth")
    return tmp_path / "vgg16.pth"


def test_vggs_layers_read_the_pooled_map_as_vgg_did(weight_file):
    state = torch.load(weight_file, weights_only=True)
    head = BoxHead(2, 3, 0, **KEYS | {"width": 7}, dropout=0.5, weights=str(weight_file)).eval()
    x = torch.randn(4, 2, 3, 3)
    hidden = F.linear(x.flatten(1), state["classifier.0.weight"], state["classifier.0.bias"]).relu()
    expected = F.linear(hidden, state["classifier.3.weight"], state["classifier.3.bias"]).relu()
    assert torch.allclose(head(x), expected, atol=1e-6)


def test_files_and_layers_that_do_not_fit_are_told(weight_file, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"head.box_head.weights: VGG16's fc6 and fc7 .* this head has \[\(18, 64\), \(64, 64\)\]"):
        BoxHead(2, 3, 0, **KEYS, weights=str(weight_file))
    small = KEYS | {"width": 7}
    with pytest.raises(ConfigError, match=r"head.box_head.weights: no such file 'nowhere.pth'"):
        BoxHead(2, 3, 0, **small, weights="nowhere.pth")
    state = torch.load(weight_file, weights_only=True)
    torch.save(state | {"classifier.0.bias": torch.full((7,), torch.nan)}, tmp_path / "caffe.pth")
    with pytest.raises(CheckpointError, match="values that are no numbers"):
        BoxHead(2, 3, 0, **small, weights=str(tmp_path / "caffe.pth"))
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "features.pth")
    with pytest.raises(CheckpointError, match=r"the file lacks 0\.bias"):
        BoxHead(2, 3, 0, **small, weights=str(tmp_path / "features.pth"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    with pytest.raises(ConfigError, match=r"head.box_head.weights: no file vgg16-397923af.pth"):
        BoxHead(2, 3, 0, **small, weights="torchvision")


def test_the_sizes_are_those_of_vgg16():
    import torchvision

    with torch.device("meta"):
        theirs = torchvision.models.vgg16(weights=None).classifier
    assert [(m.in_features, m.out_features) for m in theirs if isinstance(m, nn.Linear)][:2] == vgg16_linears.SHAPES
    layers = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"this head has \[\(4, 4\)\]"):
        load_vgg16_linears(layers, "torchvision")


def test_one_head_for_all_bins():
    """Seven bins of 512 channels and 4096 outputs are what VGG's layers fit."""
    node = yaml_options("head", "faster_rcnn")
    with torch.device("meta"):
        head = make_head("faster_rcnn", [LevelSpec("P4", 512, 16)], 2, box_head=node["box_head"] | {"width": 4096})
    assert [(m.in_features, m.out_features) for m in head.box_head.linears if isinstance(m, nn.Linear)] == vgg16_linears.SHAPES
