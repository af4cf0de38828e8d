"""Precedence of the groups, and how Hydra's refusals are told."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from fusion_det.config.compose import Composition, compose
from fusion_det.config.overrides import quote
from fusion_det.errors import ConfigError

pytestmark = pytest.mark.usefixtures("configs")


def chosen(configs: Path, *overrides: str) -> tuple[object, ...]:
    done = compose("train", overrides, configs)
    assert not done.faults
    assert not done.unknown
    config = done.config
    fusion = config.get("fusion")
    return config["neck"]["repeats"], fusion and fusion["gain"], config["block"]["gain"], config["seed"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), (1, 1.0, 1.0, 0)),
        (("neck=bifpn",), (3, 4.0, 2.0, 0)),  # a neck brings its own fusion and block
        (("neck=bifpn", "fusion=aff"), (3, 2.0, 2.0, 0)),  # the command line wins over the neck
        (("fusion=aff", "neck=bifpn", "block=conv"), (3, 2.0, 1.0, 0)),
        (("experiment=strong",), (3, 3.0, 2.0, 7)),  # an experiment wins over the neck it chooses
        (("experiment=strong", "neck=fpn"), (1, 3.0, 1.0, 7)),  # the command line wins over an experiment
        (("experiment=strong", "fusion=aff", "seed=9"), (3, 2.0, 2.0, 9)),
        (("experiment=necked",), (3, 4.0, 2.0, 8)),
        (("experiment=necked", "neck=fpn"), (1, 1.0, 1.0, 8)),
        (("experiment=null",), (1, 1.0, 1.0, 0)),
        (("fusion=null",), (1, None, 1.0, 0)),
        (("experiment=unfused",), (1, None, 1.0, 0)),
        (("experiment=unfused", "fusion=aff"), (1, 2.0, 1.0, 0)),
        (("neck.repeats=5", "neck=bifpn"), (5, 4.0, 2.0, 0)),
    ],
)
def test_precedence(configs: Path, overrides: tuple[str, ...], expected: tuple[object, ...]) -> None:
    assert chosen(configs, *overrides) == expected


def test_an_experiments_values_win_over_its_groups(configs: Path) -> None:
    assert compose("train", ["experiment=strong"], configs).config["trainer"]["epochs"] == 3
    assert compose("train", ["experiment=strong", "trainer.epochs=4"], configs).config["trainer"]["epochs"] == 4


def test_result_is_plain_and_named_by_the_choices(configs: Path) -> None:
    done = compose("train", ["neck=bifpn", "fusion=aff"], configs)
    assert type(done.config) is dict
    assert type(done.config["neck"]["topology"]) is dict
    assert type(done.config["backbone"]["depths"]) is list
    assert "hydra" not in done.config
    assert done.config["name"] == "scenes_tiny_bifpn_aff_fcos"
    assert done.choices["trainer"] == "default"
    assert compose("train", ["fusion=null"], configs).config["name"] == "scenes_tiny_fpn_none_fcos"
    assert compose("train", ["name=mine"], configs).config["name"] == "mine"


def refused(done: Composition) -> list[str]:
    return [str(fault) for fault in done.faults]


def test_every_bad_override_is_collected(configs: Path) -> None:
    typed = [
        "neck=bfpn",
        "seed",
        "trainer.epochs=[1",
        "traner.epochs=3",
        "+seed=3",
        "~trainer.nothing",
        "trainer.epochs.x=3",
        "neck=a,b",
        "+=",
    ]
    done = compose("train", [*typed, "seed=5"], configs)
    told = refused(done)
    assert done.config["seed"] == 5
    assert "neck: no such option 'bfpn' -> did you mean neck=bifpn? options: bifpn, fpn" in told
    assert "seed: is not KEY=VALUE -> write key=value or group=option; see --help" in told
    assert any(line.startswith("trainer.epochs=[1: cannot be read") for line in told)
    assert "+seed=3: is there already -> remove the + : seed=3" in told
    assert "neck=a,b: several values for one run -> add -m to run them one after another" in told
    assert [override.key for override in done.unknown] == ["traner.epochs", "trainer.nothing", "trainer.epochs.x"]
    assert len(told) + len(done.unknown) == len(typed)


def test_a_group_takes_only_names(configs: Path) -> None:
    assert "no such option '3'" in refused(compose("train", ["neck=3"], configs))[0]
    assert compose("train", ["neck={repeats: 4}"], configs).config["neck"]["repeats"] == 4
    assert compose("train", ["+neck@second=fpn"], configs).config["second"]["repeats"] == 1  # for the checker to refuse


def test_hydra_settings_are_refused(configs: Path) -> None:
    for text in ("hydra.run.dir=x", "hydra/job_logging=none", "+hydra.verbose=true"):
        with pytest.raises(ConfigError, match="no effect"):
            compose("train", [text], configs)


NASTY = [
    "a=b",
    "a b",
    "a,b",
    "it's",
    'say "x"',
    "[a](b){c}",
    "a:b",
    "ä\\b",
    "end\\",
    "q\\'q",
    "$HOME",
    "a#b",
    "100%",
    "~x",
    "true",
    "12",
    "1e3",
    "",
    "x;rm",
    "*?",
]


@pytest.mark.parametrize("name", NASTY)
def test_plain_paths_need_no_quotes(configs: Path, name: str) -> None:
    path = f"/data/{name}"
    done = compose("evaluate", [f"checkpoint={path}"], configs)
    assert not done.faults
    assert done.config["checkpoint"] == path
    if name:
        assert compose("evaluate", [f"checkpoint={name}"], configs).config["checkpoint"] == name


def test_quoted_values_lists_and_null_stay_what_they_are(configs: Path) -> None:
    config = compose("train", ["run_dir='a,b'", "resume=null", "init_from=${run_dir}"], configs).config
    assert (config["run_dir"], config["resume"], config["init_from"]) == ("a,b", None, "a,b")
    assert compose("train", ["run_dir=~/x"], configs).config["run_dir"] == str(Path.home() / "x")


def test_quote_is_read_back_by_hydra() -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for text in (*NASTY, "\\\\'", "'", "\\", "a\\\\", "'\\'"):
        assert OverridesParser.create().parse_override(f"k={quote(text)}").value() == text


def test_open_nodes_need_no_plus(configs: Path) -> None:
    assert compose("train", ["eval.expect.AP=[0.3,0.1]"], configs).config["eval"]["expect"] == {"AP": [0.3, 0.1]}
    assert compose("evaluate", ["data.root=/a b"], configs).config["data"] == {"root": "/a b"}


def test_users_options_from_another_folder(configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my necks" / "neck").mkdir(parents=True)
    (tmp_path / "my necks" / "neck" / "mine.yaml").write_text("_target_: toyparts.parts.Neck\nrepeats: 9\n")
    monkeypatch.chdir(tmp_path)
    for folder in ("my necks", str(tmp_path / "my necks"), f"file://{tmp_path}/my necks"):
        assert compose("train", ["neck=mine"], configs, [folder]).config["neck"]["repeats"] == 9
    search = f"hydra.searchpath=['file://{tmp_path}/my necks']"
    assert compose("train", [search, "neck=mine"], configs).config["neck"]["repeats"] == 9
    assert "mine" in refused(compose("train", ["neck=nothing"], configs, ["my necks"]))[0]
    with pytest.raises(ConfigError, match="no such folder"):
        compose("train", [], configs, ["nowhere"])


def write(folder: Path, name: str, text: str) -> str:
    file = folder / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("repeats: 1\n\tnorm: bn\n", r"mine\.yaml:2.*not valid YAML"),
        ("repeats: 1\nrepeats: 2\n", r"mine\.yaml:2.*duplicate key"),
        ("repeats: ${nowhere}\n", r"neck\.repeats: .*nowhere"),
        ("repeats: ${oc.env:NO_SUCH_VARIABLE}\nnorm: ${no.thing}\n", r"(?s)neck\.repeats: .*NO_SUCH_VARIABLE.*neck\.norm: "),
        ("repeats: ${neck.norm}\nnorm: ${neck.repeats}\n", r"neck\.repeats: "),
        (
            "defaults:\n  - override /fusion: aff\n  - _self_\nrepeats: 1\n",
            r"write `override /fusion@_global_\.fusion: OPTION` in neck/mine",
        ),
        ("defaults:\n  - nothing\n  - _self_\n", r"neck/nothing"),
    ],
)
def test_faults_in_yaml_name_file_or_key(configs: Path, tmp_path: Path, text: str, complaint: str) -> None:
    extra = write(tmp_path, "neck/mine", text)
    with pytest.raises(Exception, match=complaint) as caught:
        compose("train", ["neck=mine"], configs, [extra])
    assert caught.value.exit_code == 2
    assert all("\n" not in line for line in caught.value.lines)


def test_missing_primary_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train"):
        compose("train", [], tmp_path)


def test_hydra_of_the_caller_survives(configs: Path) -> None:
    with initialize_config_dir(str(configs), version_base="1.3"):
        theirs = GlobalHydra.instance().hydra
        compose("train", [], configs)
        assert GlobalHydra.instance().hydra is theirs
    GlobalHydra.instance().clear()
    compose("train", [], configs)
    assert not GlobalHydra.instance().is_initialized()


def test_numbers_are_read_as_numbers(configs: Path) -> None:
    config = compose("train", ["optimizer.lr=1e-3", "seed=1_000"], configs).config
    assert math.isclose(config["optimizer"]["lr"], 1e-3)
    assert config["seed"] == 1000
