"""Finished run folders and predictions files as arms: what is missing, half-written, foreign or given twice is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from run_folders import write_run

from fusion_det.compare.given import parse_lists, read_given_files, read_given_runs
from fusion_det.errors import ConfigError, FusionDetError


def test_lists_of_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_lists("A=a0, a1; B='b;,= 0'", "runs") == {"A": [Path("a0"), Path("a1")], "B": [Path("b;,= 0")]}
    for name in ("r2", "r1", "x"):
        (tmp_path / name).mkdir()
    (tmp_path / "r3.log").touch()
    assert parse_lists("A=r*;B=x", "runs")["A"] == [Path("r1"), Path("r2")]
    assert parse_lists("A=r*;B=x", "predictions")["A"] == [Path("r3.log")]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a", "cannot be read: 'a' -> write NAME=PATH,PATH"),
        ("A=b", "1 given, a comparison needs two"),
        ("A=b; A=c", "'A' occurs twice"),
        ("A=; B=c", "'A' has no paths"),
        ("A='b; B=c", "no closing '"),
        ("A\x1b[31m=b; B=c", "'A\\x1b[31m' cannot be a name"),
    ],
)
def test_what_is_no_list_of_paths(text, fault):
    with pytest.raises(ConfigError) as error:
        parse_lists(text, "runs")
    assert fault in str(error.value)


def test_run_folders_are_read_with_their_seeds(tmp_path, coco_root):
    for arm, seed in (("a", 3), ("a", 4), ("b", 3)):
        write_run(tmp_path / f"{arm}{seed}", coco_root, seed=seed, noise=1.0, words=[f"neck={arm}"])
    runs = read_given_runs(f"A={tmp_path}/a*; B={tmp_path}/b3")
    assert [(run.arm, run.seed, run.words[-1]) for run in runs] == [("A", 3, "neck=a"), ("A", 4, "neck=a"), ("B", 3, "neck=b")]
    assert runs[0].history == ({"step": 4, "val/AP": 0.1, "val/AP50": 0.2},)  # the torn line is no evaluation


def test_every_folder_that_cannot_be_used_is_named_and_none_is(tmp_path, coco_root):
    good = write_run(tmp_path / "good", coco_root, seed=0, noise=1.0)
    spoilt = {}
    for name in ("no-config", "unfinished", "half", "no-predictions", "old", "newer", "no-summary"):
        spoilt[name] = tmp_path / name
        shutil.copytree(good, spoilt[name])
    (spoilt["no-config"] / "config.yaml").write_text("{")
    (spoilt["unfinished"] / "results.json").write_text('{"finished": false}')
    (spoilt["half"] / "results.json").write_text('{"finished": true, "summary": {"AP":')
    (spoilt["no-predictions"] / "predictions.json").unlink()
    (spoilt["old"] / "start.json").unlink()
    (spoilt["newer"] / "start.json").write_text('{"format": 7}')
    (spoilt["no-summary"] / "results.json").write_text('{"finished": true}')
    folders = ",".join(map(str, [*spoilt.values(), tmp_path / "absent"]))
    with pytest.raises(FusionDetError) as error:
        read_given_runs(f"A={good}; B={folders}")
    told = dict(line.removeprefix(str(tmp_path)).split(": ", 1) for line in error.value.lines)
    assert {name: text.partition(" -> ")[0].partition(", so")[0] for name, text in told.items()} == {
        "/no-config": "is no run folder: it has no usable config.yaml",
        "/unfinished": "the run is not finished",
        "/half": "the run is not finished",
        "/no-predictions": "predictions.json is missing",
        "/old": "start.json is missing: the folder is of an older version",
        "/newer": "start.json has format 7",
        "/no-summary": "summary in results.json is missing",
        "/absent": "no such folder",
    }


def test_no_run_counts_twice(tmp_path, coco_root):
    one = write_run(tmp_path / "one", coco_root, seed=0, noise=1.0)
    same_seed = write_run(tmp_path / "two", coco_root, seed=0, noise=2.0)
    for text, fault in (
        (f"A={one},{tmp_path}/./one; B={same_seed}", "is given twice, for 'A' and 'A'"),
        (f"A={one}; B={one}", "is given twice, for 'A' and 'B'"),
        (f"A={one},{same_seed}; B={tmp_path}/absent", "has the seed 0, as"),
    ):
        with pytest.raises(FusionDetError) as error:
            read_given_runs(text)
        assert fault in str(error.value)


def test_files_are_paired_by_position(tmp_path):
    for name in ("a0", "a1", "b0"):
        (tmp_path / f"{name}.json").write_text(json.dumps([]))
    runs = read_given_files(f"A={tmp_path}/a0.json,{tmp_path}/a1.json; B={tmp_path}/b0.json")
    assert [(run.arm, run.seed) for run in runs] == [("A", 0), ("A", 1), ("B", 0)]
    with pytest.raises(FusionDetError) as error:
        read_given_files(f"A={tmp_path}/a0.json; B={tmp_path}/c.json,{tmp_path}")
    assert [line.partition(": ")[2] for line in error.value.lines] == [
        "no such file -> name a COCO results file",
        "is a folder -> name a COCO results file",
    ]
