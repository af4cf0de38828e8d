"""The named necks as their YAML files state them, without Hydra: what the tests of this folder build."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
import yaml

from fusion_det.config.instantiate import build
from fusion_det.structures import LevelSpec

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NECKS = sorted(file.stem for file in (CONFIGS / "neck").glob("*.yaml"))
RESNET50 = [LevelSpec(f"C{i}", 64 << i, 1 << i) for i in (2, 3, 4, 5)]
SMALL = [LevelSpec("C3", 12, 8), LevelSpec("C4", 20, 16), LevelSpec("C5", 28, 32)]


def read(group, name):
    return yaml.safe_load((CONFIGS / group / f"{name}.yaml").read_text())


def named_neck(name, levels, *, fusion=None, block=None, **keys):
    """The neck of ``configs/neck/<name>.yaml``; ``keys`` replace its keys, a double underscore goes down: ``topology__repeats=1``.

    Those that start with ``fusion__`` or ``block__`` replace keys of the operator's or the block's YAML.
    """
    node = read("neck", name)
    chosen = {}
    for entry in node.pop("defaults"):
        if isinstance(entry, dict):
            ((key, option),) = entry.items()
            chosen[key.rpartition(".")[2]] = option
    parts = {"fusion": read("fusion", fusion or chosen["fusion"]), "block": read("block", block or chosen["block"])}
    for key, value in keys.items():
        *path, last = key.split("__")
        inner = node | parts if path else node
        for step in path:
            inner = inner[step]
        assert last in inner, f"{name} has no key {key}"
        inner[last] = value
    made = {group: partial(build, part) for group, part in parts.items()}
    return build(node, levels, made["fusion"], made["block"])


def backbone_maps(levels, batch=1, height=131, width=203):
    """Backbone maps as a stride-2 network with padding gives them (ceil at each halving), with gradients."""
    sizes = [(-(-height // level.stride), -(-width // level.stride)) for level in levels]
    return [torch.randn(batch, level.channels, *size, requires_grad=True) for level, size in zip(levels, sizes, strict=True)]


def shuffle_norms(module):
    """Give every BatchNorm statistics and affine numbers that are not neutral, so that a forgotten one shows."""
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(norm.running_mean, std=0.1)
            torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
            torch.nn.init.normal_(norm.bias, std=0.1)
    return module


def count(module):
    return sum(p.numel() for p in module.parameters())
