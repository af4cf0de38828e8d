"""The runner on fake runs: skips, goes on, tries again, keeps going, and is killed again and again."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
from runner_cases import make_jobs, make_runner, steps_of

from fusion_det.compare.done import is_done
from fusion_det.compare.slots import Slot, make_slots
from fusion_det.compare.state import JobState, StudyState
from fusion_det.config.lock import FolderLock
from fusion_det.engine.signals import StopRequest


@pytest.fixture(autouse=True)
def _look_again_soon(monkeypatch):
    monkeypatch.setattr("fusion_det.compare.runner._LOCK_WAIT", 0.02)


def statuses(root: Path) -> dict[str, str]:
    return {name: state.status for name, state in StudyState(root).jobs.items()}


def test_all_jobs_run_once_and_a_second_call_starts_nothing(tmp_path):
    jobs = make_jobs(tmp_path)
    runner, display = make_runner(tmp_path, jobs, steps=5)
    runner.run(StopRequest())
    assert all(is_done(job) and steps_of(job) == [1, 2, 3, 4, 5] for job in jobs)
    assert display.most == 2
    assert [name for name, status in display.events if status == "running"] == [job.id for job in jobs]
    again, display = make_runner(tmp_path, jobs, steps=5)
    again.run(StopRequest())
    assert display.events == []
    assert set(statuses(tmp_path).values()) == {"done"}


def test_one_arm_crashes_and_the_others_finish(tmp_path):
    jobs = make_jobs(tmp_path, needs={"arm2/seed1": ("arm1/seed0",)})
    behaviour = {"arm1/seed0": "crash", "arm1/seed1": "exit2", "arm0/seed1": "crash-once"}
    runner, _ = make_runner(tmp_path, jobs, steps=2, behaviour=behaviour, retries=2)
    runner.run(StopRequest())
    found = StudyState(tmp_path).jobs
    assert {name: state.status for name, state in found.items()} == {
        "arm0/seed0": "done", "arm1/seed0": "failed", "arm2/seed0": "done",
        "arm0/seed1": "done", "arm1/seed1": "failed", "arm2/seed1": "blocked",
    }  # fmt: skip
    assert (found["arm1/seed0"].attempts, found["arm1/seed1"].attempts, found["arm0/seed1"].attempts) == (3, 1, 2)
    assert found["arm1/seed0"].message == "exit code 1: ZeroDivisionError: ?[31mred?[0m division by zero"
    assert found["arm1/seed1"].message == "exit code 2: error: head.num_conv: unknown key -> did you mean head.num_convs?"
    mended, display = make_runner(tmp_path, jobs, steps=2)
    mended.run(StopRequest())
    assert set(statuses(tmp_path).values()) == {"done"}
    assert {name for name, _ in display.events} == {"arm1/seed0", "arm1/seed1", "arm2/seed1"}


def test_an_end_without_results_is_a_failure(tmp_path):
    jobs = make_jobs(tmp_path, arms=1, seeds=1)
    runner, _ = make_runner(tmp_path, jobs, steps=1, behaviour={"arm0/seed0": "no-results"}, retries=0)
    runner.run(StopRequest())
    assert StudyState(tmp_path)["arm0/seed0"].message == "exit code 0: ended without results"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_children_and_the_next_call_goes_on(tmp_path, number):
    jobs = make_jobs(tmp_path)
    runner, _ = make_runner(tmp_path, jobs, steps=30)
    with StopRequest() as stop:
        timer = threading.Timer(0.25, os.kill, (os.getpid(), number))
        timer.start()
        runner.run(stop)
    assert stop.number == number
    assert "interrupted" in statuses(tmp_path).values()
    assert all(running.handle.poll() is not None for running in runner.running)
    again, _ = make_runner(tmp_path, jobs, steps=30)
    again.run(StopRequest())
    assert all(steps_of(job) == list(range(1, 31)) for job in jobs)


def kill_and_restart(root: Path, kills: int, steps: int, seed: int) -> int:
    """Kill the runner ``kills`` times at random moments, then let it finish; how many kills met it at work."""
    jobs, rng, met = make_jobs(root), random.Random(seed), 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            try:
                make_runner(root, jobs, steps=steps)[0].run(StopRequest())
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0.0, 0.25))
        os.kill(child, signal.SIGKILL)
        met += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    make_runner(root, jobs, steps=steps)[0].run(StopRequest())
    return met


def test_a_runner_killed_ten_times_redoes_nothing_and_loses_nothing(tmp_path):
    met = kill_and_restart(tmp_path, 10, 80, seed=5)
    assert met >= 5
    for job in make_jobs(tmp_path):
        assert steps_of(job) == list(range(1, 81)), job.id
        assert json.loads((job.folder / "results.json").read_text())["finished"]
    assert set(statuses(tmp_path).values()) == {"done"}


@pytest.mark.slow
def test_a_runner_killed_fifty_times(tmp_path):
    assert kill_and_restart(tmp_path, 50, 250, seed=6) >= 25
    assert all(steps_of(job) == list(range(1, 251)) for job in make_jobs(tmp_path))


def test_a_folder_that_another_process_holds_is_waited_for(tmp_path):
    (job,) = jobs = make_jobs(tmp_path, arms=1, seeds=1)
    job.folder.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        lock = FolderLock(job.folder)
        time.sleep(0.4)
        lock.release()
        os._exit(0)
    time.sleep(0.15)
    runner, display = make_runner(tmp_path, jobs, steps=1)
    begin = time.monotonic()
    runner.run(StopRequest())
    os.waitpid(child, 0)
    assert time.monotonic() - begin > 0.1
    assert [status for _, status in display.events] == ["waiting", "running", "done"]


def test_a_spoilt_state_file_is_made_again(tmp_path):
    jobs = make_jobs(tmp_path, arms=2, seeds=1)
    make_runner(tmp_path, jobs, steps=1)[0].run(StopRequest())
    for text in ("", "{", "[]", '{"format": 99, "jobs": {}}', '{"format": 1, "jobs": {"a": 3}}'):
        (tmp_path / "state.json").write_text(text)
        runner, display = make_runner(tmp_path, jobs, steps=1)
        runner.run(StopRequest())
        assert [status for _, status in display.events] == ["done", "done"]


def test_state_survives_a_round_trip(tmp_path):
    state = StudyState(tmp_path)
    state.update("a/seed0", status="running", attempts=2, seconds=1.5)
    state.update("b/seed0", status="failed", message="no")
    again = StudyState(tmp_path)
    assert again.jobs == {"a/seed0": JobState("running", 2, seconds=1.5), "b/seed0": JobState("failed", message="no")}
    again.begin(["a/seed0", "b/seed0", "c/seed0"])
    assert [again[name].status for name in ("a/seed0", "b/seed0", "c/seed0")] == ["interrupted", "waiting", "waiting"]


def test_slots_share_the_machine():
    assert make_slots(2, gpus=[], cores=5) == [Slot(0, 2), Slot(1, 2)]
    assert make_slots("auto", gpus=[], cores=8) == [Slot(0, 8)]
    assert make_slots("auto", gpus=["3"], cores=8) == [Slot(0, 8)]  # the only GPU needs no choice
    assert make_slots("auto", gpus=["0", "2"], cores=9) == [Slot(0, 4, "0"), Slot(1, 4, "2")]
    assert [slot.gpu for slot in make_slots(3, gpus=["0", "1"], cores=2)] == ["0", "1", "0"]
    assert make_slots(4, gpus=[], cores=2)[0].environment == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
