"""A private config tree: the real YAMLs of the closed groups, toy components in a package ``toyparts`` outside fusion_det."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

PARTS = """
import torch  # the checker must never come here
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Optional
from os import system as shell
import os

from pydantic import BaseModel, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from fusion_det.config.types import Probability

Norm = Literal["none", "bn", "gn"]
Factory = Callable[..., object]


class Backbone:
    def __init__(self, *, width: PositiveInt, depths: list[PositiveInt], pretrained: bool = False, name: str | None = None):
        self.width, self.depths, self.pretrained, self.name = width, depths, pretrained, name


class Neck:
    def __init__(self, levels: Sequence[int], *, repeats: PositiveInt = 1, norm: Norm = "bn", topology: Factory,
                 extras: Optional[Sequence[Factory]] = None):
        self.levels, self.repeats, self.norm, self.topology, self.extras = levels, repeats, norm, topology, extras


def topology(levels, *, extra: Annotated[int, Field(ge=0, le=4)] = 0, span: tuple[int, int] = (0, 1)):
    return (levels, extra, span)


class Head:
    def __init__(self, levels, *, dropout: Probability = 0.0, prior: Annotated[float, Field(gt=0, lt=1)] = 0.01, **options: int):
        self.levels, self.dropout, self.prior, self.options = levels, dropout, prior, options


class FancyHead(Head):
    def __init__(self, levels, *, convs: PositiveInt, **kwargs):
        super().__init__(levels, **kwargs)
        self.convs = convs


class Base:
    def __init__(self, *, gain: PositiveFloat = 1.0):
        self.gain = gain


class Plain(Base):
    pass


class Module(torch.nn.Module):
    pass


@dataclass
class Fields:
    registry: ClassVar[dict] = {}
    size: PositiveInt
    label: str = "x"


class Model(BaseModel):
    rate: PositiveFloat
    steps: int = Field(default=3)


def optimizer(params, *, lr: PositiveFloat, momentum: float = 0.9, betas: tuple[float, float] = (0.9, 0.999), decay: NonNegativeFloat = 0):
    return (params, lr)


class Runs:
    pass


def _hidden(*, a: int = 0):
    return a
"""

RUNS = """
seen = []

def train(settings, overrides):
    seen.append((settings, overrides))

def evaluate(settings):
    seen.append(settings)
    return 4

def crash(settings, overrides):
    raise ZeroDivisionError("a bug")

def stop(settings, overrides):
    raise KeyboardInterrupt
"""

COMPONENTS = {
    "backbone/tiny": "_target_: toyparts.parts.Backbone\nwidth: 16\ndepths: [1, 2]\npretrained: false\nname: null\n",
    "fusion/add": "_target_: toyparts.parts.Plain\ngain: 1.0\n",
    "fusion/aff": "_target_: toyparts.parts.Plain\ngain: 2.0\n",
    "fusion/concat": "_target_: toyparts.parts.Plain\ngain: 3.0\n",
    "fusion/weighted": "_target_: toyparts.parts.Plain\ngain: 4.0\n",
    "block/conv": "_target_: toyparts.parts.Plain\ngain: 1.0\n",
    "block/separable": "_target_: toyparts.parts.Plain\ngain: 2.0\n",
    "head/fcos": "_target_: toyparts.parts.FancyHead\nconvs: 4\ndropout: 0.0\nprior: 0.01\n",
    "late_fusion/nms": "_target_: toyparts.parts.Plain\ngain: 1.0\n",
    "data/scenes": "_target_: toyparts.parts.Fields\nsize: 3\nlabel: a\n",
    "data/coco": "_target_: toyparts.parts.Fields\nsize: ???\nlabel: b\n",
    "augment/default": "_target_: toyparts.parts.Plain\ngain: 1.0\n",
    "optimizer/adamw": "_target_: toyparts.parts.optimizer\nlr: 0.001\nmomentum: 0.9\nbetas: [0.9, 0.999]\ndecay: 0\n",
    "schedule/cosine": "_target_: toyparts.parts.Model\nrate: 0.1\nsteps: 3\n",
    "experiment/scenes": "# @package _global_\nseed: 0\n",
    "experiment/strong": "# @package _global_\ndefaults:\n  - override /neck: bifpn\n  - override /fusion: concat\n"
    "seed: 7\ntrainer:\n  epochs: 3\n",
    "experiment/necked": "# @package _global_\ndefaults:\n  - override /neck: bifpn\nseed: 8\n",
    "experiment/unfused": "# @package _global_\ndefaults:\n  - override /fusion: null\n",
}
NECK = """defaults:
  - override /fusion@_global_.fusion: {fusion}
  - override /block@_global_.block: {block}
  - _self_

_target_: toyparts.parts.Neck
repeats: {repeats}
norm: bn
topology:
  _target_: toyparts.parts.topology
  extra: 1
  span: [0, 1]
extras: null
"""


def write_tree(root: Path) -> Path:
    """The private configs under ``root/configs``."""
    configs = root / "configs"
    configs.mkdir()
    for name in ("train.yaml", "evaluate.yaml", "predict.yaml"):
        shutil.copy(REPO / "configs" / name, configs)
    for name in ("trainer", "loader", "eval", "logger"):
        shutil.copytree(REPO / "configs" / name, configs / name)
    necks = {
        "neck/fpn": NECK.format(fusion="add", block="conv", repeats=1),
        "neck/bifpn": NECK.format(fusion="weighted", block="separable", repeats=3),
    }
    for name, text in {**COMPONENTS, **necks}.items():
        file = configs / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return configs


@pytest.fixture(scope="session")
def shared_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The private tree and the package ``toyparts``; read only."""
    root = tmp_path_factory.mktemp("tree")
    package = root / "toyparts"
    package.mkdir()
    (package / "__init__.py").write_text("from toyparts.parts import Backbone as Renamed\n")
    (package / "parts.py").write_text(PARTS)
    (package / "runs.py").write_text(RUNS)
    (package / "broken.py").write_text("import no_such_library\n\n\nclass Part:\n    pass\n")
    (package / "garbled.py").write_text("class Part:\n    def __init__(self:\n")
    return write_tree(root)


@pytest.fixture
def configs(shared_tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The private tree, with ``toyparts`` importable and named by the user as a plug-in."""
    monkeypatch.syspath_prepend(shared_tree.parent)
    monkeypatch.setenv("FUSION_DET_PLUGINS", "toyparts")
    yield shared_tree
    for name in [name for name in sys.modules if name.partition(".")[0] == "toyparts"]:
        del sys.modules[name]
