"""Weights of reference implementations under our names: what torchvision computes is what our necks compute."""

from __future__ import annotations

import pytest
import torch
from named_necks import RESNET50, backbone_maps, count, named_neck
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7

from fusion_det.necks.weight_maps import rename
from fusion_det.structures import LevelSpec

NARROW = [LevelSpec(f"C{i + 2}", 8 << i, 4 << i) for i in range(4)]
FPN = [("inner_blocks.{i}.{j}", "entries.C{i+2}.{j}"), ("layer_blocks.{i}.{j}", "blocks.P{i+2}.{j}")]
P6P7 = [("extra_blocks.p6", "extra.convs.0"), ("extra_blocks.p7", "extra.convs.1")]


def test_numbers_are_moved_and_the_rest_of_the_name_is_kept():
    state = {"a.0.conv.weight": 1, "a.10.conv.bias": 2, "top": 3, "skipped.1": 4}
    rules = [("a.{i}.conv", "b.C{i+2}.x{12-i}.{i}"), ("top", "extra.0"), ("skipped", "")]
    assert rename(state, rules) == {"b.C2.x12.0.weight": 1, "b.C12.x2.10.bias": 2, "extra.0": 3}
    assert rename({"s.3.4.w": 0}, [("s.3.{i}", "last{i}"), ("s.{j}.{i}", "n{j-1}_{i}")]) == {"last4.w": 0}


def test_names_without_a_rule_and_names_that_meet_are_refused():
    with pytest.raises(ValueError, match=r"no rule fits \['laterals.0.w'\]; the rules start with \['lateral'\]"):
        rename({"laterals.0.w": 1, "lateral.w": 1}, [("lateral", "entries")])
    with pytest.raises(ValueError, match=r"two tensors would be called 'x.w', the second is 'b.w'"):
        rename({"a.w": 1, "b.w": 2}, [("a", "x"), ("b", "x")])


@pytest.mark.parametrize("norm", ["none", "bn"])
@pytest.mark.parametrize("extra", ["none", "maxpool", "p6p7_of_c5", "p6p7_of_p5"])
def test_torchvision_pyramid(extra, norm):
    torch.manual_seed(0)
    blocks = {"none": None, "maxpool": LastLevelMaxPool(), "p6p7_of_c5": LastLevelP6P7(64, 16), "p6p7_of_p5": LastLevelP6P7(16, 16)}
    kinds = {"none": (0, "maxpool"), "maxpool": (1, "maxpool"), "p6p7_of_c5": (2, "conv_on_input"), "p6p7_of_p5": (2, "conv_on_output")}
    layer = torch.nn.BatchNorm2d if norm == "bn" else None
    theirs = FeaturePyramidNetwork([level.channels for level in NARROW], 16, blocks[extra], layer)
    keys = {"channels": 16, "entry__norm": norm, "extra__count": kinds[extra][0], "extra__kind": kinds[extra][1]}
    ours = named_neck("fpn", NARROW, block="conv" if norm == "none" else "conv_bn", **keys)
    ours.load_state_dict(rename(theirs.state_dict(), FPN + P6P7))
    assert count(ours) == count(theirs)
    maps = backbone_maps(NARROW, 2)
    expected = theirs(dict(zip("0123", maps, strict=True))).values()
    for a, b in zip(ours(maps), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def conv(x, layer, norm=None):
    y = torch.nn.functional.conv2d(x, layer.weight, layer.bias, stride=2, padding=1)
    return y if norm is None else norm(y)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("norm", ["none", "bn"])
@pytest.mark.parametrize("kind", ["conv_on_input", "conv_on_entry", "conv_on_output"])
def test_further_levels_start_where_they_are_told_to(kind, norm, relu):
    torch.manual_seed(0)
    keys = {"extra__count": 2, "extra__kind": kind, "extra__relu": relu, "extra__norm": norm}
    neck = named_neck("fpn", NARROW, channels=16, **keys)
    maps = backbone_maps(NARROW, 2)
    found = neck(maps)
    start = {"conv_on_input": maps[-1], "conv_on_entry": neck.entries["C5"](maps[-1]), "conv_on_output": found[3]}[kind]
    p6 = conv(start, neck.extra.convs[0], neck.extra.norms[0])
    p7 = conv(p6.relu() if relu else p6, neck.extra.convs[1], neck.extra.norms[1])
    assert (neck.extra.convs[0].bias is None) == (norm == "bn")
    torch.testing.assert_close(found[4], p6)
    torch.testing.assert_close(found[5], p7)


def test_further_levels_from_an_entry_that_is_not_there_are_refused():
    with pytest.raises(
        ValueError, match=r"neck\.extra: expected an entry of C5 with 64 channels to start from, got none that all nodes share"
    ):
        named_neck("bifpn", RESNET50[1:], extra__count=1, extra__kind="conv_on_entry")
