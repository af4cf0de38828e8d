"""The Slurm launcher on submitit's local executor, if submitit is there; without it, one line that says what to install."""

from __future__ import annotations

import importlib.util
import signal
import sys
import time

import pytest
from runner_cases import FAKE, make_jobs, make_runner, steps_of

from fusion_det.compare.launch import Command
from fusion_det.compare.slurm import SlurmLauncher
from fusion_det.compare.state import StudyState
from fusion_det.engine.signals import StopRequest
from fusion_det.errors import ConfigError

HAS_SUBMITIT = importlib.util.find_spec("submitit") is not None


@pytest.mark.skipif(HAS_SUBMITIT, reason="submitit is installed")
def test_without_submitit_it_says_what_to_install(tmp_path):
    with pytest.raises(ConfigError) as error:
        SlurmLauncher(tmp_path)
    assert str(error.value) == "launcher=slurm: needs the package submitit -> pip install 'fusion-det[sweep]'"


@pytest.mark.skipif(not HAS_SUBMITIT, reason="submitit is not installed")
def test_a_study_runs_on_submitits_local_executor(tmp_path):
    jobs = make_jobs(tmp_path, arms=2, seeds=1)
    runner, _ = make_runner(tmp_path, jobs, steps=3, behaviour={"arm1/seed0": "exit2"})
    runner.launcher = SlurmLauncher(tmp_path / "slurm", cluster="local", timeout_min=1)
    runner.run(StopRequest())
    assert steps_of(jobs[0]) == [1, 2, 3]
    assert {name: (state.status, state.code) for name, state in StudyState(tmp_path).jobs.items()} == {
        "arm0/seed0": ("done", 0), "arm1/seed0": ("failed", 2),
    }  # fmt: skip


@pytest.mark.skipif(not HAS_SUBMITIT, reason="submitit is not installed")
def test_a_stopped_job_saves_itself(tmp_path):
    launcher = SlurmLauncher(tmp_path / "slurm", cluster="local", timeout_min=1)
    words = (sys.executable, "-I", "-S", str(FAKE), str(tmp_path / "run"), "2000")
    handle = launcher.start(Command(words, tmp_path / "run.log", {}), "arm/seed0")
    while not (tmp_path / "run" / "last.pt").is_file():
        time.sleep(0.05)
    handle.stop(signal.SIGTERM)
    deadline = time.monotonic() + 20
    while handle.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert handle.poll() not in (None, 0)
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.skipif(not HAS_SUBMITIT, reason="submitit is not installed")
def test_unknown_parameters_are_one_line(tmp_path):
    with pytest.raises(ConfigError):
        SlurmLauncher(tmp_path, cluster="local", slurm_no_such_thing=3)
