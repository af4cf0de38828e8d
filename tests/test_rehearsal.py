"""What a run refuses before it reads any data: sizes, levels that do not hold, parts of a user's own; one line that names both sides."""

from __future__ import annotations

import sys
import textwrap
import time

import pytest
import torch

from fusion_det.build import build_detector, dry_run
from fusion_det.config.cli import load_settings, main
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.errors import ConfigError

SMALL = ["data=coco", "data.root=/nowhere", "data.image_size=64", "loader.batch_size=8", "neck.channels=8"]
SMALL += ["backbone.stem_width=8", "backbone.widths=[8,8,8,8]", "backbone.depths=[1,1,1,1]"]
MINE = '''
import torch
from torch import nn
from fusion_det.fusion.operator import FusionOperator
from fusion_det.necks.plan import Node, Plan
from fusion_det.structures import LevelSpec


class Neck(nn.Module):
    """A user's neck of one 1x1 convolution per level, wrong in the way that ``fault`` says."""

    def __init__(self, levels, operator, block, *, channels: int, fault: str):
        super().__init__()
        self.fault = fault
        if fault == "constructor":
            self.depths = {}["missing"]
        if fault == "values at build":
            float(torch.ones(3).sum())
        if fault != "no levels":
            self.levels = [LevelSpec("P" + level.name[1:], channels, level.stride) for level in levels]
        self.convs = nn.ModuleList(nn.Conv2d(level.channels, channels, 1) for level in levels)

    def forward(self, features):
        maps = [conv(x) for conv, x in zip(self.convs, features)]
        if self.fault == "channels":
            maps[1] = torch.cat([maps[1]] * 2, 1)
        if self.fault == "size":
            maps[0] = maps[0][..., ::2]
        if self.fault == "count":
            maps = maps[:2]
        if self.fault == "dict":
            maps = dict(enumerate(maps))
        if self.fault == "shapes":
            maps[0] = maps[0] + maps[1]
        if self.fault == "values" and maps[0].mean() > 3:
            maps = [-m for m in maps]
        return maps


class Wide(FusionOperator):
    def fuse(self, inputs):
        return torch.cat(list(inputs), 1)


class Pair(FusionOperator):
    def fuse(self, inputs):
        own, other = inputs
        return own + other


class Shift(nn.Module):
    def __init__(self, channels, from_stride, to_stride, out_channels=None):
        super().__init__()

    def forward(self, x, size):
        return x[..., 1:, 1:]


class Backbone(nn.Module):
    """A user's backbone, wrong in the way that ``fault`` says."""

    def __init__(self, *, fault: str):
        super().__init__()
        self.fault = fault
        self.mean = None if fault == "mean" else (0.0, 0.0, 0.0)
        self.std = (1.0, 1.0, 1.0)
        self.levels = [LevelSpec("C3", 8, 8), LevelSpec("C4", 8, 24 if fault == "stride" else 16), LevelSpec("C5", 8, 32)]
        if fault == "order":
            self.levels.reverse()
        if fault == "zero":
            self.levels[0] = LevelSpec("C3", 0, 8)
        self.convs = nn.ModuleList(nn.Conv2d(3, 8, 3, stride, 1) for stride in (8, 16, 32))

    def forward(self, images):
        maps = [conv(images) for conv in self.convs]
        return maps[::-1] if self.fault == "coarse first" else maps


def cycle(levels):
    a, b = Node("A", 8, ("C3", "B")), Node("B", 16, ("C4", "A"))
    return Plan.build(levels, [a, b, Node("P3", 8, ("A",))], ["P3"])


def odd(levels):
    return Plan.build(levels, [Node("P3", 12, ("C3",))], ["P3"])


def lonely(levels):
    return Plan.build(levels, [Node("P3", 8, ("C3",), operator="gp")], ["P3"])


def ghost(levels):
    return Plan.build(levels, [Node("P3", 8, ("C3", "C9"))], ["P3"])


def unchecked(levels):
    return Plan(("C3", "C4", "C5"), (8, 16, 32), (Node("P3", 0, ("C3",)),), ("P3",))


def named(levels):
    return Plan.build(levels, [Node("P3", 8, ("C3", "C4"), operator="mine")], ["P3"])


def nothing(levels):
    return [level.name for level in levels]
'''


def line_of(text):
    return next(number for number, line in enumerate(MINE.splitlines(), start=1) if text in line)


def plain(*words):
    return load_settings(get_tool("train"), list(words), default_config_dir()).plain()


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A user's module ``mine_parts``, importable and allowed, and a folder of configs with ``neck=mine``."""
    (tmp_path / "conf" / "neck").mkdir(parents=True)
    (tmp_path / "conf" / "neck" / "mine.yaml").write_text("_target_: mine_parts.Neck\nchannels: 8\nfault: none\n")
    (tmp_path / "conf" / "backbone").mkdir()
    (tmp_path / "conf" / "backbone" / "mine.yaml").write_text("_target_: mine_parts.Backbone\nfault: none\n")
    (tmp_path / "mine_parts.py").write_text(textwrap.dedent(MINE))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FUSION_DET_PLUGINS", "mine_parts")
    yield tmp_path / "conf"
    sys.modules.pop("mine_parts", None)


@pytest.fixture
def refusal(tmp_path, capfd):
    """The one line that tools/train.py says to ``words``, without making a run folder and with exit code 2."""

    def run(*words):
        code = main("train", [*SMALL, f"run_dir={tmp_path / 'run'}", *words])
        captured = capfd.readouterr()
        assert code == 2, captured.err
        assert not (tmp_path / "run").exists()
        (line,) = captured.err.splitlines()
        return line

    return run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["neck=single", "neck.topology.stride=4"], ["stride 4", "[8, 16, 32]"]),
        (["neck=bfp", "neck.topology.stride=24"], ["stride 24", "[8, 16, 32, 64]"]),
        (["neck=hypernet", "neck.topology.stride=24"], ["'P4' at stride 24", "'C5' at stride 32", "resampling reaches 4, 8, 16, 32"]),
        (["neck=nasfpn", "neck.deeper.count=1"], ["expected 5 levels", "got 4: ['C3', 'C4', 'C5', 'C6']"]),
        (
            ["neck=bifpn", "backbone.first_stride=32", "neck.deeper.count=0"],
            ["at least 2 levels", "the backbone gives C5 /32 of 8 channels"],
        ),
        (["neck=bfp", "~neck.parts.refine"], ["['refine']", "['coarser', 'merge', 'residual']"]),
        (["neck.widths=[8,8]"], ["['C3', 'C4', 'C5']", "[8, 8]"]),
        (["neck.widths=[8,8,16]"], ["one width", "P3 8, P4 8, P5 16 channels"]),
        (["+neck.special_entries.middle={_target_:fusion_det.necks.entry.identity.Identity}"], ["['finest', 'deepest']", "['middle']"]),
        (["neck=attention", "neck.channels=10"], ["heads=8", "got 10"]),
        (["fusion=cross_attention", "neck.channels=10"], ["10 channels", "4 heads"]),
        (["neck=fapn", "neck.channels=12"], ["groups=8", "got 12"]),
        (["fusion=cross_attention", "data.image_size=1600"], ["200 x 200 = 40000 positions", "max_tokens=16384", "1600 x 1600", "M3"]),
        (["neck=attention", "neck.context.max_tokens=3"], ["neck.context.max_tokens", "2 x 2 = 4", "64 x 64"]),
        (["neck.extra.count=5"], ["P10 /1024", "64 x 64", "neck.extra.count"]),
        (["neck.extra.count=500"], ["whose strides", "64 x 64", "neck.extra.count"]),
        (["neck=ssd", "neck.extra.unpadded=1"], ["neck.extra: level 4 of 4", "1 x 1", "64 x 64", "data.image_size", "neck.extra.unpadded"]),
        (
            ["neck=bifpn", "loader.batch_size=1"],
            ["BatchNorm2d of T6_1 /64", "1 x 1", "batch size 1", "64 x 64", "loader.batch_size=2", "above 128"],
        ),
        (
            ["fusion=aff", "fusion.statistics=batch", "loader.batch_size=1"],
            ["of M4 /16", "pooled map of 1 x 1", "loader.batch_size=2", "running"],
        ),
        (["head.norm=gn", "neck.channels=32", "neck.extra.count=1"], ["head.box_tower.1: GroupNorm", "1 x 1", "batch size 1", "above 64"]),
        (["block=null"], ["block: the neck needs one", "block=OPTION"]),
        (["fusion=null"], ["fusion: the neck needs one", "fusion=OPTION"]),
        (["data.image_size=100"], ["data.image_size", "multiple of 32", "use 96"]),
        (["neck=bifpm"], ["did you mean neck=bifpn?"]),
        (["fusion=concatt"], ["did you mean fusion=concat?"]),
    ],
    ids=" ".join,
)
def test_what_cannot_work_is_refused_in_one_line(words, expected, refusal):
    line = refusal(*words)
    missing = [text for text in expected if text not in line]
    assert not missing, line


NECK_FAULTS = {
    "channels": ["neck: ", "says P4 has 8 channels at stride 16", "[8, 8, 4, 4]", "[8, 16, 4, 4]"],
    "size": ["says P3 has 8 channels at stride 8", "[8, 8, 8, 8]", "gives [8, 8, 8, 4]"],
    "count": ["['P3', 'P4', 'P5']", "gives 2 maps"],
    "dict": ["a list of maps", "got dict"],
    "shapes": ["RuntimeError", f"mine_parts.py:{line_of('maps[0] + maps[1]')}", "64 x 64"],
    "constructor": ["KeyError", "missing", f"mine_parts.py:{line_of('missing')}", "the backbone gives C3 /8 of 8 channels"],
    "no levels": ["Neck has no levels", "LevelSpec"],
}


@pytest.mark.parametrize("fault", NECK_FAULTS)
def test_a_users_neck_is_held_to_its_levels(fault, mine, refusal):
    line = refusal("--config-dir", str(mine), "neck=mine", f"neck.fault={fault}")
    missing = [text for text in NECK_FAULTS[fault] if text not in line]
    assert not missing, line


BACKBONE_FAULTS = {
    "mean": ["backbone: Backbone.mean", "3 numbers", "got None"],
    "stride": ["stride 24", "stride 32", "the backbone gives C3 /8 of 8 channels, C4 /24"],
    "order": ["fine to coarse", "[32, 16, 8]"],
    "zero": ["positive whole numbers", "channels=0"],
    "coarse first": ["says C3 has 8 channels at stride 8", "[8, 8, 8, 8]", "gives [8, 8, 2, 2]"],
}


@pytest.mark.parametrize("fault", BACKBONE_FAULTS)
def test_a_users_backbone_is_held_to_its_levels(fault, mine, tmp_path, capfd):
    words = ["--config-dir", str(mine), "backbone=mine", f"backbone.fault={fault}", *SMALL[:5], f"run_dir={tmp_path / 'run'}"]
    assert main("train", words) == 2
    (line,) = capfd.readouterr().err.splitlines()
    missing = [text for text in BACKBONE_FAULTS[fault] if text not in line]
    assert not missing, line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fusion._target_=mine_parts.Wide"], ["fusion: Wide makes [8, 16, 4, 4] of 2 maps of [8, 8, 4, 4]", "neck.operators.M4"]),
        (
            ["neck=bifpn", "fusion._target_=mine_parts.Pair", "~fusion.eps"],
            ["too many values", f"mine_parts.py:{line_of('own, other')}", "B4_1"],
        ),
        (
            ["neck.resample={_target_:mine_parts.Shift}", "~neck.resample.up", "~neck.resample.down"],
            ["Shift makes [8, 8, 1, 1]", "[8, 8, 4, 4]"],
        ),
    ],
)
def test_a_users_parts_are_held_to_their_shapes(words, expected, mine, refusal):
    line = refusal(*words)
    missing = [text for text in expected if text not in line]
    assert not missing, line


TOPOLOGY_FAULTS = {
    "cycle": ["'A' reads 'B'", "a cycle", "['C3', 'C4', 'C5']"],
    "odd": ["stride 12", "stride 8", "4, 8, 16"],
    "lonely": ["'P3' names operator 'gp'", "one input"],
    "ghost": ["reads 'C9'", "no node makes", "['C3', 'C4', 'C5']"],
    "unchecked": ["'P3' has stride 0", "above 0"],
    "named": ["['mine']", "neck.parts holds none"],
    "nothing": ["to a Plan", "['C3', 'C4', 'C5']"],
}


@pytest.mark.parametrize("fault", TOPOLOGY_FAULTS)
def test_a_users_topology_is_checked(fault, mine, refusal):
    line = refusal(f"neck.topology._target_=mine_parts.{fault}", "~neck.topology.smooth_deepest")
    missing = [text for text in TOPOLOGY_FAULTS[fault] if text not in line]
    assert not missing, line


@pytest.mark.parametrize("fault", ["values", "values at build"])
def test_parts_that_look_at_values_are_not_refused(fault, mine):
    cfg = plain(*SMALL) | {"neck": {"_target_": "mine_parts.Neck", "channels": 8, "fault": fault}}
    found = dry_run(cfg)
    assert [level.name for level in found.levels] == ["P3", "P4", "P5"]
    assert found.picture is None
    if fault == "values":
        assert found.sizes is None
        assert "sizes were not checked beforehand: the neck looks at values" in found.text
    else:
        assert found.sizes == [(8, 8), (4, 4), (2, 2)]


def test_a_dry_run_tells_levels_sizes_and_parameters():
    cfg = plain(*SMALL, "neck=bifpn", "data.image_size=96", "loader.batch_size=2")
    found = dry_run(cfg)
    model = build_detector(cfg, 1, seed=0)
    maps = model.neck(model.backbone(torch.zeros(2, 3, 96, 96)))
    assert found.levels == model.neck.levels
    assert found.sizes == [tuple(m.shape[2:]) for m in maps]
    assert "P7        128         8  1 x 1" in found.text
    assert f"neck {sum(p.numel() for p in model.neck.parameters()):,}" in found.text
    assert "WeightedFast" in found.picture


def test_the_flag_shows_and_draws_without_data_or_run_folder(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO", logger="fusion_det")
    assert main("train", [*SMALL, "neck=bifpn", f"--dry-run={tmp_path / 'neck.svg'}"]) == 0
    shown = caplog.text
    assert "T4_1 /16 <- fuse(C4, up T5_1) + block" in shown
    assert "fuse: WeightedFast; block: Separable" in shown
    assert "P3          8         8  8 x 8" in shown
    assert (tmp_path / "neck.svg").read_text().startswith("<svg")
    assert [path.name for path in tmp_path.iterdir()] == ["neck.svg"]


@pytest.mark.parametrize(
    ("tool", "words", "code", "expected"),
    [
        ("train", ["--dry-run", "neck=single", "neck.topology.stride=4"], 2, "stride 4 is not among"),
        ("train", ["--dry-run=/proc/nowhere/neck.svg"], 1, "cannot write"),
        ("train", ["--dry-run", "-m", "seed=0,1"], 2, "-m"),
        ("evaluate", ["--dry-run"], 2, "tools/train.py and tools/compare.py have this flag"),
    ],
)
def test_what_the_flag_refuses(tool, words, code, expected, capfd):
    assert main(tool, words) == code
    (line,) = capfd.readouterr().err.splitlines()
    assert expected in line


def test_a_fusion_that_nothing_uses_is_told():
    assert "which has no effect" in dry_run(plain(*SMALL, "neck=single", "fusion=aff")).text
    assert "which has no effect" not in dry_run(plain(*SMALL, "fusion=aff")).text


def test_levels_that_are_smaller_than_their_stride_says_may_be():
    found = dry_run(plain(*SMALL, "neck=ssd", "neck.extra.unpadded=1", "neck.extra.count=2", "data.image_size=192"))
    assert found.sizes == [(24, 24), (12, 12), (6, 6), (3, 3), (1, 1)]


def test_other_shapes_than_squares_are_tried_unless_the_data_has_none():
    words = ["neck=ssd", "neck.channels=8", "neck.extra.unpadded=2", "data.image_size=640"]
    assert dry_run(plain(*words)).sizes[-2:] == [(3, 3), (1, 1)]
    with pytest.raises(ConfigError, match=r"has 2 x 3 already .* pictures of 480 x 640"):
        dry_run(plain(*words, "data=coco", "data.root=/nowhere"))


def test_a_data_source_without_image_size_is_not_rehearsed():
    cfg = plain(*SMALL)
    found = dry_run(cfg | {"data": {"_target_": "mine.source"}})
    assert found.sizes is None
    assert "data has no image_size" in found.text


def test_the_dry_run_of_the_default_is_quick():
    cfg = plain()
    dry_run(cfg)
    start = time.process_time()
    dry_run(cfg)
    assert time.process_time() - start < 2


def test_config_errors_of_parts_keep_their_place():
    with pytest.raises(ConfigError) as refused:
        dry_run(plain(*SMALL, "fusion=cross_attention", "fusion.max_tokens=10"))
    assert refused.value.where == "fusion.max_tokens"
    assert "neck.operators.M4" in refused.value.what
