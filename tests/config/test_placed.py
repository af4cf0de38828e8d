"""Options of a group inside a part: ``backbone.topology=aff`` where the backbone placed the group ``fusion``."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusion_det.config.check import check_config
from fusion_det.config.cli import load_settings, main
from fusion_det.config.compose import compose
from fusion_det.config.help import help_text
from fusion_det.config.multirun import expand
from fusion_det.config.placed import place, placements
from fusion_det.config.tools import TRAIN
from fusion_det.errors import ConfigError

JOINED = """# A backbone with an operator inside.
defaults:
  - /fusion@topology: add # any of the group fusion
  - _self_
_target_: toyparts.parts.Neck
repeats: 2
norm: bn
extras: null
"""
CHOOSING = """# @package _global_
defaults:
  - override /backbone: joined
  - override /fusion@backbone.topology: concat
backbone:
  topology:
    gain: 9.0
"""


@pytest.fixture
def more(configs: Path, tmp_path: Path) -> str:
    """A folder of further options: a backbone that places a group, and an experiment that chooses inside it."""
    for name, text in {"backbone/joined": JOINED, "experiment/choosing": CHOOSING}.items():
        file = tmp_path / "more" / f"{name}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(text)
    return str(tmp_path / "more")


@pytest.mark.parametrize(
    ("words", "inside", "outside"),
    [
        (["backbone=joined"], 1.0, 1.0),
        (["backbone=joined", "backbone.topology=aff"], 2.0, 1.0),
        (["backbone.topology=aff", "backbone=joined"], 2.0, 1.0),  # in any order
        (["backbone=joined", "backbone.topology=aff", "neck=bifpn", "fusion=concat"], 2.0, 3.0),
        (["backbone=joined", "fusion=aff"], 1.0, 2.0),
        (["backbone=joined", "fusion@backbone.topology=aff"], 2.0, 1.0),  # Hydra's own words
        (["backbone=joined", "backbone.topology=aff", "backbone.topology.gain=5.0"], 5.0, 1.0),
        (["experiment=choosing"], 9.0, 1.0),
        (["experiment=choosing", "backbone.topology.gain=4.0"], 4.0, 1.0),
    ],
)
def test_options_inside_a_part(configs: Path, more: str, words: list[str], inside: float, outside: float) -> None:
    done = compose("train", words, configs, [more])
    assert not done.faults
    assert not done.unknown
    assert (done.config["backbone"]["topology"]["gain"], done.config["fusion"]["gain"]) == (inside, outside)
    assert done.overrides == words


def test_the_choice_is_recorded_and_names_the_run(configs: Path, more: str) -> None:
    done = compose("train", ["backbone=joined", "backbone.topology=aff", "neck=bifpn"], configs, [more])
    assert done.choices["fusion@backbone.topology"] == "aff"
    assert done.config["name"] == "scenes_joined-aff_bifpn_weighted_fcos"


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ["backbone.topology=afff", "backbone.topology.gain=2.0", "neck=bfpn"],
            [
                "backbone.topology: no such option 'afff' -> did you mean backbone.topology=aff? options: add, aff, concat, weighted",
                "neck: no such option 'bfpn' -> did you mean neck=bifpn? options: bifpn, fpn",
            ],
        ),
        (
            ["fusion=afff", "backbone.topology=afff"],
            [
                f"{key}: no such option 'afff' -> did you mean {key}=aff? options: add, aff, concat, weighted"
                for key in ("fusion", "backbone.topology")
            ],
        ),
        (["backbone.topology.gian=2.0"], ["backbone.topology.gian: unknown key (got '2.0') -> did you mean backbone.topology.gain?"]),
        (["backbone=tiny", "backbone.topology=aff"], ["backbone.topology: unknown key (got 'aff') -> did you mean neck.topology?"]),
        (["backbone.topology=null"], ["backbone.topology: got null, expected a node with _target_"]),
        (["backbone.topology=7"], ["backbone.topology: got 7, expected a node with _target_"]),
        (["backbone.topology=add,aff"], ["backbone.topology=add,aff: several values for one run -> add -m to run them one after another"]),
        (["backbone.norm=xx"], ["backbone.norm: got 'xx', expected one of none, bn, gn"]),
    ],
)
def test_mistakes_are_lines(configs: Path, more: str, words: list[str], lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main("train", ["--config-path", str(configs), "--config-dir", more, "backbone=joined", *words]) == 2
    told = [line.removeprefix("error: ") for line in capsys.readouterr().err.splitlines()]
    assert sorted(told) == sorted(lines)


def test_a_fault_in_the_chosen_option_names_its_file(configs: Path, more: str) -> None:
    file = Path(more) / "fusion" / "bad.yaml"
    file.parent.mkdir()
    file.write_text("_target_: toyparts.parts.Plain\ngain: -1.0\n")
    with pytest.raises(ConfigError, match=r"backbone\.topology\.gain \(.*fusion/bad\.yaml:2\): got -1\.0"):
        load_settings(TRAIN, ["backbone=joined", "backbone.topology=bad"], configs, [more])
    with pytest.raises(ConfigError, match=r"^backbone\.topology\.gain: got -2\.0"):  # typed, so no file is to blame
        load_settings(TRAIN, ["backbone=joined", "backbone.topology=bad", "backbone.topology.gain=-2.0"], configs, [more])


def test_what_comes_out_of_a_checkpoint_is_plain_data(configs: Path, more: str) -> None:
    settings = load_settings(TRAIN, ["backbone=joined", "backbone.topology=aff"], configs, [more])
    plain = settings.plain()
    assert plain["backbone"]["topology"] == {"_target_": "toyparts.parts.Plain", "gain": 2.0}
    assert check_config(plain, "train", configs) == settings


def test_sweeps(configs: Path, more: str) -> None:
    words = ["backbone=joined", "backbone.topology=add,aff", "seed=1"]
    jobs = expand(TRAIN, words, configs, [more])
    assert jobs == [["backbone=joined", f"backbone.topology={option}", "seed=1"] for option in ("add", "aff")]
    assert expand(TRAIN, ["backbone.fusion=glob(*d*)"], configs) == [["backbone.fusion=add"], ["backbone.fusion=weighted"]]
    for text in ("fusion=glob(x*)", "neck.repeats=glob(*)"):
        with pytest.raises(ConfigError, match="stands for no value"):
            expand(TRAIN, [text], configs)


def test_help_tells_of_them(configs: Path, more: str) -> None:
    text = " ".join(help_text(TRAIN, "train", (configs, Path(more))).split())
    assert "(backbone=joined takes backbone.topology=OPTION too: those of fusion, add by itself)" in text


def test_only_words_choose() -> None:
    placed = placements({"fusion@backbone.fusion": "add", "fusion": "add", "fusion@_global_": "add", "hydra/env": "default"})
    assert placed == {"backbone.fusion": "fusion"}
    same = ["backbone.fusion=null", "backbone.fusion=True", "backbone.fusion=3", "backbone.fusion={a: 1}", "+backbone.fusion=aff"]
    same += ["backbone.fusion.norm=gn", "~backbone.fusion", "fusion=aff", "seed=3", "backbone.fusion='aff'", "backbone.fusion"]
    assert place(same, placed) == same
    assert place(["backbone.fusion=my-own.v2"], placed) == ["fusion@backbone.fusion=my-own.v2"]


@pytest.mark.parametrize(
    ("words", "inside"),
    [
        (["head=two_stage", "roi_fusion=pair", "roi_fusion.fusion=aff", "roi_fusion.repeats=3"], ("aff", 3)),
        (["roi_fusion.fusion=aff", "roi_fusion=pair", "head=two_stage"], ("aff", 2)),  # in any order
        (["head=two_stage", "head.roi_fusion=pair", "head.roi_fusion.fusion=concat"], ("concat", 2)),  # with its owner
    ],
)
def test_a_group_found_inside_parts_only_needs_no_owner(configs: Path, tmp_path: Path, words: list[str], inside: tuple[str, int]) -> None:
    done = compose("train", words, configs, [two_stage(tmp_path)])
    assert not done.faults
    assert not done.unknown
    assert (done.choices["fusion@head.roi_fusion.fusion"], done.config["head"]["roi_fusion"]["repeats"]) == inside
    assert done.choices["roi_fusion@head.roi_fusion"] == "pair"


@pytest.mark.parametrize("word", ["roi_fusion=pair", "roi_fusion.repeats=3"])
def test_without_an_owner_it_is_refused(configs: Path, tmp_path: Path, word: str) -> None:
    done = compose("train", [word], configs, [two_stage(tmp_path)])
    assert [str(fault) for fault in done.faults] == [
        f"{word}: no chosen part takes it -> choose a part whose YAML places the group roi_fusion; head=faster_rcnn does"
    ]


def two_stage(folder: Path) -> str:
    """A folder with a head that places the group roi_fusion, whose options place the group fusion."""
    texts = {
        "head/two_stage": "# A head.\ndefaults:\n  - /roi_fusion@roi_fusion: one\n  - _self_\n_target_: toyparts.parts.Neck\nrepeats: 2\n",
        "roi_fusion/one": "# One.\ndefaults:\n  - /fusion@fusion: add\n  - _self_\n_target_: toyparts.parts.Neck\nrepeats: 1\n",
        "roi_fusion/pair": "# Two.\ndefaults:\n  - /fusion@fusion: add\n  - _self_\n_target_: toyparts.parts.Neck\nrepeats: 2\n",
    }
    for name, text in texts.items():
        file = folder / "more" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return str(folder / "more")


def test_help_lists_a_group_found_inside_parts_only(configs: Path, tmp_path: Path) -> None:
    text = help_text(TRAIN, "train", (configs, Path(two_stage(tmp_path))))
    assert "(head=two_stage takes head.roi_fusion=OPTION too: those of roi_fusion, one by itself)" in text
    assert "\n  roi_fusion  one pair\n" in text
    assert "\n  roi_fusion" not in help_text(TRAIN, "train", (configs,))
