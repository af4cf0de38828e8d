"""A stride given twice: the map behind its first block beside that of its end."""

from __future__ import annotations

import pytest
import torch

from fusion_det.backbones.first_blocks import level_names
from fusion_det.backbones.timm_backbone import TimmBackbone
from fusion_det.errors import ConfigError


def make(name="mobilenetv3_small_050", strides=(16, 32, 32), **options):
    keys = {"pretrained": False, "weights": None, "frozen_stages": 0, "frozen_norm": False} | options
    return TimmBackbone(name=name, strides=list(strides), **keys).eval()


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "efficientnet_lite0"])
@torch.no_grad()
def test_the_usual_maps_stay_as_they_are(name):
    twice, once = make(name), make(name, strides=(16, 32))
    once.load_state_dict(twice.state_dict())
    assert [(level.name, level.stride) for level in twice.levels] == [("C4", 16), ("C5a", 32), ("C5b", 32)]
    x, seen = torch.randn(2, 3, 75, 101), []
    stage = {"mobilenetv3_small_050": 4, "efficientnet_lite0": 5}[name]
    once.net.blocks[stage][0].register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    maps, (fine, coarse) = twice(x), once(x)
    for level, found, expected in zip(twice.levels, maps, (fine, seen[0], coarse), strict=True):
        assert torch.equal(found, expected)
        assert found.shape == (2, level.channels, -(-75 // level.stride), -(-101 // level.stride))
    assert len(seen) == 1


def test_every_stride_may_stand_twice():
    backbone = make(strides=(2, 8, 8, 16, 16, 32, 32))
    x = torch.randn(1, 3, 64, 96)
    assert [m.shape[2] for m in backbone(x)] == [32, 8, 8, 4, 4, 2, 2]
    assert [level.channels for level in backbone.levels] == [m.shape[1] for m in backbone(x)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet10t"}, r"strides \[16, 32, 32\]: resnet10t has no second map of stride 32: its stages are no sequences of blocks"),
        ({"strides": (2, 2)}, "nothing follows the first block of stride 2 -> list each stride once; only MobileNets and EfficientNets"),
        ({"strides": (32, 32, 32)}, r"strides \[32, 32, 32\] do not grow"),
        ({"strides": (32, 16, 32)}, r"strides \[32, 16, 32\] do not grow"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, message):
    with pytest.raises(ConfigError, match=message) as refused:
        make(**options)
    assert str(refused.value).startswith("backbone.strides")


def test_a_letter_tells_levels_of_one_stride_apart():
    assert level_names([4, 16, 16, 32]) == ["C2", "C4a", "C4b", "C5"]
