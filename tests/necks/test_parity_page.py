"""The rules of docs/parity.md: every line of overrides builds a neck, and its rules name all of its tensors and no others."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from named_necks import CONFIGS, RESNET50, backbone_maps, read

from fusion_det.config.cli import load_settings
from fusion_det.config.instantiate import build
from fusion_det.config.tools import get_tool
from fusion_det.necks.weight_maps import rename

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "parity.md").read_text()
BUILD = re.compile(r"^Build: `([^`]+)` on C(\d) to C(\d)(?: of ([\d, and]+) channels(?: each)?)?\.$", re.MULTILINE)
ROW = re.compile(r"^\| `([^`]+)` \| (?:`([^`]+)`|left out) \|$", re.MULTILINE)


def read_page():
    """Title -> (overrides, levels, rules) of each entry."""
    found = {}
    for part in PAGE.split("\n### ")[1:]:
        if (line := BUILD.search(part)) is not None:
            overrides, first, last, channels = line.groups()
            levels = [level for level in RESNET50 if int(first) <= int(level.name[1:]) <= int(last)]
            widths = [int(width) for width in re.findall(r"\d+", channels or "")] or [level.channels for level in levels]
            widths = widths * len(levels) if len(widths) == 1 else widths
            levels = [level._replace(channels=width) for level, width in zip(levels, widths, strict=True)]
            found[part.partition("\n")[0]] = (overrides.split(), levels, ROW.findall(part))
    return found


ENTRIES = read_page()


def build_neck(overrides, levels):
    """The neck of ``neck=NAME block=NAME neck.key=value ...``, read from the YAML files without Hydra."""
    chosen = dict(text.split("=", 1) for text in overrides)
    node = read("neck", chosen.pop("neck"))
    options = dict(entry.popitem() for entry in node.pop("defaults") if isinstance(entry, dict))
    options = {key.rpartition(".")[2]: option for key, option in options.items()}
    tree = {"neck": node} | {group: read(group, chosen.pop(group, options[group])) for group in ("fusion", "block")}
    for key, value in chosen.items():
        *path, last = key.split(".")
        inner = tree
        for step in path:
            inner = inner[step]
        assert last in inner, f"there is no key {key}"
        inner[last] = yaml.safe_load(value)
    return build(tree["neck"], levels, partial(build, tree["fusion"]), partial(build, tree["block"]))


def as_pattern(ours):
    return re.compile(re.sub(r"\\\{[^}]*\\\}", r"\\d+", re.escape(ours)) + r"(\.|$)")


def test_the_page_was_read():
    assert len(ENTRIES) >= 20
    assert PAGE.count("\nBuild: ") == len(ENTRIES)
    assert all(rules for _, _, rules in ENTRIES.values())


@pytest.mark.parametrize("title", ENTRIES)
def test_rules_name_every_tensor_of_the_neck_and_nothing_else(title):
    overrides, levels, rules = ENTRIES[title]
    with torch.device("meta"):
        names = list(build_neck(overrides, levels).state_dict())
    patterns = [as_pattern(ours) for _, ours in rules if ours]
    unnamed = [name for name in names if not any(pattern.match(name) for pattern in patterns)]
    assert not unnamed, f"no rule gives {unnamed[:5]}"
    idle = [pattern.pattern for pattern in patterns if not any(pattern.match(name) for name in names)]
    assert not idle, f"rules for tensors that are not there: {idle}"


def test_overrides_of_the_page_are_taken_by_the_command_line():
    title = "PANet's own code, with GroupNorm"
    settings = load_settings(get_tool("train"), [*ENTRIES[title][0], "experiment=null", "data.root=."], CONFIGS).plain()
    assert settings["block"]["norm"] == settings["neck"]["entry"]["norm"] == settings["neck"]["resample"]["down"]["norm"] == "gn"
    assert settings["neck"]["channels"] == 256


def test_weights_of_torchvision_give_its_outputs_by_the_rules_of_the_page():
    from torchvision.models.detection import ssd300_vgg16
    from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

    torch.manual_seed(0)
    overrides, levels, rules = ENTRIES["torchvision `FeaturePyramidNetwork`"]
    theirs = FeaturePyramidNetwork([512, 1024, 2048], 256, LastLevelP6P7(2048, 256))
    ours = build_neck(overrides, levels)
    ours.load_state_dict(rename(theirs.state_dict(), rules))
    maps = backbone_maps(levels, height=131, width=203)
    for a, b in zip(ours(maps), theirs(dict(zip("abc", maps, strict=True))).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)

    overrides, levels, rules = ENTRIES["torchvision `ssd300_vgg16`"]
    with torch.device("meta"):
        backbone = ssd300_vgg16(weights=None, weights_backbone=None).backbone
    backbone.extra = backbone.extra.to_empty(device="cpu")
    for tensor in backbone.extra.parameters():
        torch.nn.init.normal_(tensor, std=0.02)
    backbone.scale_weight = torch.nn.Parameter(torch.rand(512) * 20)
    ours = build_neck(overrides, levels)
    ours.load_state_dict(rename(backbone.state_dict(), rules))
    conv4, fc7 = backbone_maps(levels, height=300, width=300)
    expected = [backbone.scale_weight[:, None, None] * torch.nn.functional.normalize(conv4), fc7]
    for block in list(backbone.extra)[1:]:
        expected.append(block(expected[-1]))
    for a, b in zip(ours([conv4, fc7]), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
