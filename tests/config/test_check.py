"""All faults of a config at once, each with its key and the nearest valid one, before torch is loaded."""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from fusion_det.config.check import check_config, valid_keys
from fusion_det.config.cli import load_settings
from fusion_det.config.compare_schema import CompareConfig
from fusion_det.config.compose import compose
from fusion_det.config.overrides import split
from fusion_det.config.schema import EnsembleConfig, EvaluateConfig, PredictConfig, Settings, TrainConfig
from fusion_det.config.source import Sources
from fusion_det.config.suggest import edit_distance
from fusion_det.config.tools import EVALUATE, TRAIN, Tool
from fusion_det.errors import FusionDetError

REPO_CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def told(configs: Path, *overrides: str, tool: Tool = TRAIN, folders: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(FusionDetError) as caught:
        load_settings(tool, overrides, configs, folders)
    assert caught.value.exit_code == 2
    return caught.value.lines


def test_a_right_config_gives_typed_settings(configs: Path) -> None:
    settings = load_settings(TRAIN, ["trainer.epochs=3", "eval.expect.AP=[0.3,0.1]"], configs)
    assert isinstance(settings, TrainConfig)
    assert settings.trainer.epochs == 3
    assert settings.eval.expect == {"AP": (0.3, 0.1)}
    assert settings.neck["topology"]["_target_"] == "toyparts.parts.topology"
    assert yaml.safe_load(yaml.safe_dump(settings.plain()))["eval"]["expect"] == {"AP": [0.3, 0.1]}
    with pytest.raises(ValidationError):
        settings.seed = 3


def test_all_faults_in_one_pass(configs: Path) -> None:
    lines = told(
        configs,
        "trainer.epoch=3", "nek=fpn", "head=fcoss", "trainer.epochs=abc", "+trainer.foo=1", "optimizer.lr=-1", "seed=-1",
        "+neck.topology.extr=1", "data=coco", "neck.extras=[{_target_: os.system}]", "init_from=/no/such.pt", "device=gpu", "word",
    )  # fmt: skip
    assert lines == [
        "word: is not KEY=VALUE -> write key=value or group=option; see --help",
        "head: no such option 'fcoss' -> did you mean head=fcos? options: fcos",
        "trainer.epoch: unknown key (got '3') -> did you mean trainer.epochs?",
        "nek: unknown key (got 'fpn') -> did you mean neck?",
        f"data.size ({configs}/data/coco.yaml:2): must be given -> add data.size=VALUE",
        "seed: got -1, expected a whole number at least 0",
        "device: got 'gpu', expected one of auto, cpu, cuda, cuda:N",
        "trainer.epochs: got 'abc', expected a whole number above 0",
        "trainer.foo: unknown key (got 1) -> keys here: accumulate, channels_last, checkpoint_every, clip_grad_norm, compile,"
        " deterministic, ema_decay, epochs, eval_every, keep_checkpoints, log_every, pictures, precision, threads",
        "neck.topology.extr: unknown key (got 1) -> did you mean neck.topology.extra?",
        "neck.extras.0._target_: _target_ 'os.system' is refused for safety: its package is not one of fusion_det, toyparts"
        " -> if the code is yours, name its package: --plugins PACKAGE or FUSION_DET_PLUGINS=PACKAGE",
        "optimizer.lr: got -1, expected a number above 0",
        "init_from: no such file or folder: /no/such.pt -> / has no 'no'",
    ]


WRONG = {
    "trainer.epochs": ["0", "1.5", "true", "'3'", "null", "[3]"],
    "trainer.precision": ["fp16"],
    "trainer.clip_grad_norm": ["0", "nan", "inf", "true"],
    "trainer.ema_decay": ["1", "-0.1", "1.0"],
    "trainer.keep_checkpoints": ["1"],
    "trainer.deterministic": ["1", "null"],
    "trainer.channels_last": ["yes"],
    "trainer.eval_every": ["-1"],
    "trainer.threads": ["0"],
    "loader.batch_size": ["0", "four"],
    "loader.workers": ["-1", "many", "true"],
    "seed": ["1.0", "null", "-1"],
    "eval.backend": ["other"],
    "eval.max_detections": ["0"],
    "eval.expect": ["{AP: 0.3}", "{AP: [0.3]}", "{AP: [3,0.1]}", "{AP: [0.3,-1]}", "{mAP: [0.3,0.1]}", "3"],
    "logger.progress": ["maybe"],
    "logger.tensorboard": ["null"],
    "device": ["cuda:", "CPU", "0", "cuda:99999"],
    "name": ["a/b", "..", "''", "-x", "'a b'", "a\\=b"],
    "run_dir": ["[a]"],
}
RIGHT = [
    ["trainer.clip_grad_norm=null", "trainer.ema_decay=0", "loader.workers=0", "device=cuda:1", "logger.progress=false", "fusion=null"],
    ["trainer.clip_grad_norm=5", "loader.workers=auto", "trainer=debug", "block=null", "optimizer.betas=[0,1]", "name=a.b_c+d-1"],
    ["~trainer.epochs", "trainer.threads=2", "trainer.ema_decay=0.5", "eval.expect={AR100: [1, 0]}"],
]


@pytest.mark.parametrize("turn", range(6))
def test_each_wrong_type_or_range_is_one_line_with_its_key(configs: Path, turn: int) -> None:
    wrong = {key: values[turn] for key, values in WRONG.items() if turn < len(values)}
    lines = told(configs, *(f"{key}={value}" for key, value in wrong.items()))
    assert sorted(line.partition(": got ")[0] for line in lines) == sorted(wrong)
    assert all(", expected " in line for line in lines)


@pytest.mark.parametrize("right", RIGHT, ids=range(3))
def test_right_values_pass(configs: Path, right: list[str]) -> None:
    assert isinstance(load_settings(TRAIN, right, configs), TrainConfig)


def test_an_absent_component_lists_the_options(configs: Path) -> None:
    (line,) = told(configs, "neck=null")
    assert line == "neck: missing, expected a node with _target_ -> choose neck=OPTION out of bifpn, fpn"


def test_added_groups_and_keys_are_refused(configs: Path) -> None:
    lines = told(configs, "trainer={epoch: 3}", "neck.topology={extr: 1}", "traner={epochs: 3}", "trainer.epochs.x=3")
    assert [line.partition(" ")[0] for line in lines] == ["trainer.epochs.x:", "trainer.epoch:", "traner:", "neck.topology.extr:"]
    assert "second: unknown key" in told(configs, "+neck@second=fpn")[0]
    assert told(configs, "++sed=3") == ["sed: unknown key (got 3) -> did you mean seed?"]
    assert told(configs, "+neck._partial_=true")[0].startswith("neck._partial_: unknown key")


def test_faults_from_files_name_file_and_line(configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "neck").mkdir()
    text = "# mine\n_target_: toyparts.parts.Neck\nrepeat: 2\ntopology:\n  _target_: toyparts.parts.topology\n  extra: 9\n"
    (tmp_path / "neck" / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert told(configs, "neck=mine", folders=(".",)) == [
        "neck.repeat (neck/mine.yaml:3): unknown key (got 2) -> did you mean neck.repeats?",
        "neck.topology.extra (neck/mine.yaml:6): got 9, expected a whole number from 0 to 4",
    ]
    assert told(configs, "neck=mine", "neck.topology.extra=8", "~neck.repeat", folders=(".",)) == [
        "neck.topology.extra: got 8, expected a whole number from 0 to 4"
    ]


def test_values_of_an_experiment_for_a_replaced_part(configs: Path, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nfusion:\n  strength: 2\n")
    (line,) = told(configs, "experiment=mine", folders=(str(tmp_path),))
    assert line.startswith(f"fusion.strength ({tmp_path}/experiment/mine.yaml:3): unknown key (got 2) -> ")
    assert line.endswith("; or drop the key: ~fusion.strength; or leave the experiment out: experiment=null")
    load_settings(TRAIN, ["experiment=mine", "~fusion.strength"], configs, (str(tmp_path),))  # the advice holds


def test_a_group_file_must_be_a_mapping(configs: Path, tmp_path: Path) -> None:
    (tmp_path / "neck").mkdir()
    (tmp_path / "neck" / "mine.yaml").write_text("- a\n")
    (line,) = told(configs, "neck=mine", folders=(str(tmp_path),))
    assert line.startswith("neck: got ['a'], expected a node with _target_ -> choose neck=OPTION")


def test_missing_paths_have_hints(configs: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.pt").touch()
    assert told(configs, f"checkpoint={tmp_path}/run/bst.pt", tool=EVALUATE) == [
        f"checkpoint: no such file or folder: {tmp_path}/run/bst.pt -> did you mean {tmp_path}/run/best.pt?"
    ]
    assert "name a file in it: best.pt" in told(configs, f"checkpoint={tmp_path}/run", tool=EVALUATE)[0]
    assert told(configs, tool=EVALUATE)[0].endswith("nothing to measure -> add checkpoint=FILE, or gt=ANNOTATIONS.json dt=PREDICTIONS.json")
    settings = load_settings(EVALUATE, [f"checkpoint={tmp_path}/run/best.pt", "data.root=/x"], configs)
    assert settings.data == {"root": "/x"}
    assert "data.rot" in told(configs, f"checkpoint={tmp_path}/run/best.pt", "data=scenes", "data.rot=/x", tool=EVALUATE)[0]


def one_edit(word: str, rng: random.Random) -> str:
    """``word`` with one letter dropped, added, changed or swapped with its neighbour, never at a dot."""
    while True:
        i, letter = rng.randrange(len(word)), rng.choice(string.ascii_lowercase)
        kind = rng.randrange(4)
        typo = [
            word[:i] + word[i + 1 :],
            word[:i] + letter + word[i:],
            word[:i] + letter + word[i + 1 :],
            word[:i] + word[i : i + 2][::-1] + word[i + 2 :],
        ][kind]
        if typo != word and typo.count(".") == word.count(".") and all(part and part[0].isalpha() for part in typo.split(".")):
            return typo


def test_one_edit_typos_get_the_right_hint(configs: Path) -> None:
    rng = random.Random(0)
    done = compose("train", [], configs)
    keys = [key for key in valid_keys(done.config, TrainConfig, Sources()) if not key.endswith("_target_")]
    meant = [rng.choice(keys) for _ in range(200)]
    typos = [one_edit(key, rng) for key in meant]
    with pytest.raises(FusionDetError) as caught:
        check_config(done.config, "train", configs, unknown=[split(f"{typo}=1") for typo in typos])
    assert [line.partition(":")[0] for line in caught.value.lines] == typos
    right = sum(line.endswith(f"did you mean {key}?") for line, key in zip(caught.value.lines, meant, strict=True))
    assert right >= 196


def test_hints_through_the_whole_path(configs: Path) -> None:
    meant = {
        "sed": "seed", "trainer.epohcs": "trainer.epochs", "traner.epochs": "trainer.epochs", "neck.repaets": "neck.repeats",
        "lr": "optimizer.lr", "learning.lr": "optimizer.lr", "batch_size": "loader.batch_size", "fuson": "fusion",
        "experimnt": "experiment", "neck.topologi.extra": "neck.topology.extra",
    }  # fmt: skip
    assert told(configs, *(f"{typo}=1" for typo in meant)) == [
        f"{typo}: unknown key (got '1') -> did you mean {key}?" for typo, key in meant.items()
    ]


def test_garbled_overrides_are_accepted_or_told_in_lines(configs: Path) -> None:
    rng = random.Random(1)
    whole = [
        "neck=fpn",
        "trainer.epochs=3",
        "optimizer.lr=1e-3",
        "~fusion",
        "++a.b=[1,2]",
        "eval.expect.AP=[0.3,0.1]",
        "loader={batch_size: 3}",
    ]
    refused: list[FusionDetError] = []
    pieces = [*string.printable, "${", "${oc.env:HOME}", "..", "???", "null", "\\'"]
    for _ in range(25):
        text = rng.choice(whole)
        for _ in range(rng.randint(1, 3)):
            i = rng.randrange(len(text) + 1)
            text = text[:i] + rng.choice(pieces) + text[i + rng.randrange(2) :]
        try:
            load_settings(TRAIN, [text], configs)
        except FusionDetError as error:
            refused.append(error)
    assert len(refused) > 10
    assert {error.exit_code for error in refused} == {2}
    assert all(line.strip() and "\n" not in line for error in refused for line in error.lines)


def test_edit_distance() -> None:
    pairs = [("", "", 0), ("a", "", 1), ("abc", "acb", 1), ("kitten", "sitting", 3), ("epochs", "epoch", 1), ("ca", "abc", 3)]
    assert [edit_distance(a, b) for a, b, _ in pairs] == [distance for *_, distance in pairs]


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("train", TrainConfig),
        ("evaluate", EvaluateConfig),
        ("predict", PredictConfig),
        ("ensemble", EnsembleConfig),
        ("compare", CompareConfig),
    ],
)
def test_yaml_and_schema_have_the_same_defaults(name: str, model: type[BaseModel]) -> None:
    written = yaml.safe_load((REPO_CONFIGS / f"{name}.yaml").read_text())
    groups = {group for entry in written.pop("defaults") if isinstance(entry, dict) for group in entry}
    fields = {key: info for key, info in model.model_fields.items() if key not in groups}
    assert list(written) == list(fields)
    for key, info in fields.items():
        default = info.default.plain() if isinstance(info.default, Settings) else info.default
        assert written[key] == ("???" if info.is_required() and key != "name" else None if info.is_required() else default)
        assert info.description


@pytest.mark.parametrize("group", ["trainer", "loader", "eval", "logger"])
def test_yaml_and_settings_have_the_same_defaults(group: str) -> None:
    written: dict[str, Any] = yaml.safe_load((REPO_CONFIGS / group / "default.yaml").read_text())
    defaults = TrainConfig.model_fields[group].default
    assert written == defaults.plain()
    assert list(written) == list(type(defaults).model_fields)
    lines = (REPO_CONFIGS / group / "default.yaml").read_text().splitlines()
    assert all("  # " in line or " # " in line for line in lines)
    assert all(info.description for info in type(defaults).model_fields.values())
