"""A whole study, from the command line to the report, with fake training: failures, kills, restarts, two runners."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from run_folders import write_run
from runner_cases import FAKE

from fusion_det.compare import workshop
from fusion_det.compare.launch import Command
from fusion_det.compare.plan import make_plan
from fusion_det.compare.runner import Runner
from fusion_det.compare.slots import Slot
from fusion_det.compare.state import StudyState
from fusion_det.config.cli import Folders, load_settings, main
from fusion_det.config.lock import FolderLock
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.errors import ConfigError

FOLDERS = Folders(default_config_dir(), ())
STEPS = {"count": "20"}
"""Of every fake run, at 10 ms each."""


@pytest.fixture(scope="module")
def words(coco_root) -> list[str]:
    """Two arms, two seeds."""
    return [
        "arms=neck=fpn; neck=none",
        "seeds=0,1",
        "data=coco",
        f"data.root={coco_root}",
        "jobs=2",
        "statistics.resamples=20",
        "explain=false",
    ]


@pytest.fixture(scope="module")
def templates(tmp_path_factory, coco_root, words) -> Path:
    """What each run leaves, made beforehand."""
    root = tmp_path_factory.mktemp("templates")
    for job in make_plan(load_settings(get_tool("compare"), words, *FOLDERS), FOLDERS).jobs:
        folder = write_run(root / job.id, coco_root, seed=job.seed, noise=1.0 if job.arm == "fpn" else 3.0, words=list(job.words))
        (folder / "config.yaml").write_text(yaml.safe_dump(job.config))
    return root


@functools.cache
def composed(tool: str, words: tuple[str, ...]):
    """Composing takes most of the time of these tests, and is always the same."""
    return load_settings(get_tool(tool), words, *FOLDERS)


@pytest.fixture
def fake(monkeypatch, templates):
    """Training is a fake of 20 short steps; a test may give a job another behaviour."""
    behaviour: dict[str, str] = {}
    monkeypatch.setattr("fusion_det.compare.plan.load_settings", lambda tool, words, *_: composed(tool.name, tuple(words)))

    def command(self, job, slot):
        line = (sys.executable, "-I", "-S", str(FAKE), str(job.folder), STEPS["count"], behaviour.get(job.id, ""))
        return Command(line, Runner.log_of(job), {"FAKE_RESULTS": str(templates / job.id)})

    monkeypatch.setattr(workshop.Workshop, "command", command)
    monkeypatch.setattr(workshop, "check_buildable", lambda plan: None)
    monkeypatch.setattr("fusion_det.compare.runner._LOCK_WAIT", 0.02)
    return behaviour


def report(folder: Path) -> dict:
    """The report without what depends on the clock or the place."""
    found = json.loads((folder / "report.json").read_text())
    for run in found["runs"]:
        del run["seconds"]
    for cost in found["costs"].values():
        del cost["training_seconds"]
    return found | {"name": ""}


def test_a_study_ends_with_verdicts_and_a_second_call_redoes_nothing(words, fake, tmp_path, capsys, caplog):
    caplog.set_level("INFO", logger="fusion_det")
    assert main("compare", [*words, f"folder={tmp_path / 'study'}"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if "done" in line][-1] == "[4/4] none/seed1"
    first = report(tmp_path / "study")
    assert set(first["comparison"]["verdicts"]) == {"none"}
    assert {d["kind"] for d in first["fairness"]} == {"variable", "allowed"}
    assert "differences between arms" in caplog.text
    assert main("compare", [*words, f"folder={tmp_path / 'study'}"]) == 0
    assert capsys.readouterr().out == ""
    assert report(tmp_path / "study") == first
    steps = [(tmp_path / "study" / "runs" / arm / seed / "steps.txt").read_text() for arm in ("fpn", "none") for seed in ("seed0", "seed1")]
    assert all(text.split() == [str(n) for n in range(1, 21)] for text in steps)


def test_one_arm_crashes_the_others_finish_and_the_code_tells(words, fake, tmp_path, caplog):
    caplog.set_level("INFO", logger="fusion_det")
    fake["none/seed1"] = "crash"
    assert main("compare", [*words, "retries=0", f"folder={tmp_path}"]) == 1
    found = report(tmp_path)
    assert [(run["arm"], run["seed"]) for run in found["runs"]] == [("fpn", 0), ("fpn", 1), ("none", 0)]
    assert [(f["arm"], f["seed"], f["status"]) for f in found["failures"]] == [("none", 1, "failed")]
    assert found["comparison"]["verdicts"]["none"]["word"] == "none"  # one common seed is left
    assert "failed: none/seed1: exit code 1: ZeroDivisionError" in caplog.text
    assert ",failed," in (tmp_path / "results.csv").read_text()
    fake["none/seed0"] = "crash"
    for name in ("results.json", "predictions.json"):
        (tmp_path / "runs" / "none" / "seed0" / name).unlink()
    assert main("compare", [*words, "retries=0", f"folder={tmp_path}"]) == 1
    assert report(tmp_path)["no_verdict"] == ["no run of another arm is finished (2 failed)"]


def kill_and_restart(words: list[str], folder: Path, kills: int, seed: int) -> int:
    """Kill the whole tool ``kills`` times, then let it finish; how often runs were started again."""
    rng = random.Random(seed)
    for number in range(kills):
        before = last_change(folder / "state.json")
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            try:
                main("compare", [*words, f"folder={folder}"])
            finally:
                os._exit(0)
        deadline = time.monotonic() + 30
        while number % 5 and last_change(folder / "state.json") == before and time.monotonic() < deadline:
            time.sleep(0.005)  # until the runner is at work; every fifth kill comes whenever it does
        time.sleep(rng.uniform(0.0, 0.4))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert main("compare", [*words, f"folder={folder}"]) == 0
    return sum(state.attempts - 1 for state in StudyState(folder).jobs.values())


def last_change(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


def test_killed_and_restarted_it_gives_the_same_report(words, fake, tmp_path, monkeypatch):
    monkeypatch.setitem(STEPS, "count", "100")  # a second: a kill after a change of the state meets runs at work
    assert main("compare", [*words, f"folder={tmp_path / 'whole'}"]) == 0
    assert kill_and_restart(words, tmp_path / "killed", 4, seed=1) >= 2
    assert report(tmp_path / "killed") == report(tmp_path / "whole")
    for file in (tmp_path / "killed").rglob("steps.txt"):
        assert file.read_text().split() == [str(n) for n in range(1, 101)], file


@pytest.mark.slow
def test_killed_fifty_times_it_gives_the_same_report(words, fake, tmp_path, monkeypatch):
    monkeypatch.setitem(STEPS, "count", "200")
    assert main("compare", [*words, f"folder={tmp_path / 'whole'}"]) == 0
    assert kill_and_restart(words, tmp_path / "killed", 50, seed=2) >= 10
    assert report(tmp_path / "killed") == report(tmp_path / "whole")


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(words, fake, tmp_path, capsys):
    def when_running() -> None:
        while not list(tmp_path.rglob("last.pt")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=when_running).start()
    assert main("compare", [*words, f"folder={tmp_path}"]) == 130
    assert capsys.readouterr().err == f"error: {tmp_path}: stopped by SIGINT; everything is saved -> the same command goes on with it\n"
    assert main("compare", [*words, f"folder={tmp_path}"]) == 0


def test_two_runners_on_one_folder_are_refused(words, fake, tmp_path, capsys):
    child = os.fork()
    if child == 0:
        lock = FolderLock(tmp_path)
        time.sleep(20)
        lock.release()
        os._exit(0)
    try:
        while not (tmp_path / ".lock").is_file() or not (tmp_path / ".lock").read_text():
            time.sleep(0.01)
        assert main("compare", [*words, f"folder={tmp_path}"]) == 2
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"already in use by process {child}" in line
    assert line.endswith("wait for it, stop it, or choose another name=NAME or folder=DIR")


def test_jobs_that_share_the_cores_share_the_loader_processes(words, tmp_path, monkeypatch):
    def workers(*more: str) -> list[str]:
        settings = load_settings(get_tool("compare"), [*words, f"folder={tmp_path}", *more], *FOLDERS)
        with workshop.Workshop(settings, FOLDERS) as shop:
            command = shop.command(make_plan(settings, FOLDERS).jobs[0], Slot(0, 4, "1"))
        assert command.environment["OMP_NUM_THREADS"] == "4"
        assert command.environment["CUDA_VISIBLE_DEVICES"] == "1"
        return [word for word in command.words if "workers" in word]

    assert workers() == ["loader.workers=3"]
    assert workers("loader.workers=1") == ["loader.workers=1"]
    assert workers("jobs=1") == []
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="cannot run under torchrun"):
        workers()


def test_arms_that_change_what_is_measured_are_refused_before_anything_runs(words, fake, tmp_path, capsys):
    arms = "arms=neck=fpn; neck=none eval.max_detections=5"
    assert main("compare", [arms, *words[1:], f"folder={tmp_path}"]) == 2
    assert "eval.max_detections differs (100 and 5)" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
