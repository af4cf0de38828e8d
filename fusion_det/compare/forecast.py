"""How long a study will take: from finished runs of it, else from a timed rehearsal of a few steps. An estimate, and called one."""

from __future__ import annotations

import json
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fusion_det.compare.done import read_json
from fusion_det.compare.launch import Command, Handle, Launcher, stop_all
from fusion_det.compare.plan import Job, Plan, PlannedArm
from fusion_det.compare.runner import last_words
from fusion_det.compare.state import StudyState
from fusion_det.config.files import write_json
from fusion_det.config.run_folder import START
from fusion_det.errors import FusionDetError, raise_all

FORECAST = "forecast.json"
_LINES = 5
"""Log lines (of two steps each) after which a rehearsal has seen enough."""
_SECONDS = 40.0
"""Longest time that a rehearsal trains once it has begun."""
_START_SECONDS = 300.0
"""Longest time until it begins; the first one may have to write the data set."""
_EVALUATION_SPEED = 2.0
"""Pictures per second in evaluation over those in training; a guess on the safe side."""
_STARTING = 10.0
"""Seconds until a process that loads a checkpoint works; a guess."""


@dataclass(frozen=True)
class Rehearsal:
    """What a few steps of an arm showed."""

    images_per_second: float
    start_seconds: float
    """From the start of the process to its first steps."""
    train_images: int
    val_images: int


def rehearse_all(
    plan: Plan, command_of: Callable[[PlannedArm, Path, Sequence[str]], Command], launcher: Launcher, tell: Callable[[str], None]
) -> dict[str, Rehearsal]:
    """By arm; arms that share their training are rehearsed once, and what was rehearsed before is read from ``forecast.json``.

    Raises the errors of arms that cannot even begin, all at once.
    """
    known = _read(plan.folder / FORECAST)
    faults = []
    for arm in plan.arms:
        if arm.training in known:
            continue
        tell(f"rehearsing {arm.name} for a few steps")
        folder = plan.folder / "rehearsals" / arm.name
        try:
            known[arm.training] = rehearse(folder, command_of, arm, launcher)
        except FusionDetError as error:
            faults.append(error)
            continue
        write_json(plan.folder / FORECAST, {digest: asdict(found) for digest, found in known.items()})
    raise_all(faults)
    return {arm.name: known[arm.training] for arm in plan.arms}


def rehearse(
    folder: Path, command_of: Callable[[PlannedArm, Path, Sequence[str]], Command], arm: PlannedArm, launcher: Launcher
) -> Rehearsal:
    """Start a training run of ``arm`` in ``folder``, time some steps, stop it and remove the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    words = ("trainer.log_every=2", "trainer.pictures=0", "trainer.eval_every=0", "logger.tensorboard=false")
    command = command_of(arm, folder, words)
    command.log.unlink(missing_ok=True)
    begin = time.monotonic()
    handle = launcher.start(command, f"rehearsal-{arm.name}")
    try:
        lines, first = _watch(folder / "metrics.jsonl", handle, begin)
    finally:
        stop_all([handle], signal.SIGTERM, kill_after=30.0)
    start = read_json(folder / START)
    if not lines or start is None:
        message = last_words(command.log) or "it said nothing"
        raise FusionDetError(f"arm {arm.name} cannot be rehearsed: {message}", where=str(command.log), mend="see the whole log there")
    speeds = [line["perf/images_per_s"] for line in lines if line.get("perf/images_per_s")]
    shutil.rmtree(folder, ignore_errors=True)
    command.log.unlink(missing_ok=True)
    speed = statistics.median(speeds[1:] or speeds or [1.0])  # the first window holds what is only done once
    return Rehearsal(speed, first - begin, start["images"]["train"], start["images"]["val"])


def _watch(log: Path, handle: Handle, begin: float) -> tuple[list[dict[str, Any]], float]:
    """(the training lines of ``log``, when the first of them came)."""
    first = 0.0
    while True:
        ended = handle.poll() is not None
        lines = [line for line in _lines(log) if "perf/images_per_s" in line]
        now = time.monotonic()
        if lines and not first:
            first = now
        if ended or len(lines) >= _LINES or (first and now - first > _SECONDS) or (not first and now - begin > _START_SECONDS):
            return lines, first or now
        time.sleep(0.1)


def job_seconds(plan: Plan, state: StudyState, rehearsals: Mapping[str, Rehearsal]) -> dict[str, float]:
    """The expected seconds of each job for which there is something to go by; those of finished runs of the same arm come first."""
    seconds = {}
    for job in plan.jobs:
        name = job.id.rpartition("/")[0]
        same = [state[other.id] for other in plan.jobs if other.id.rpartition("/")[0] == name]
        finished = [found.seconds for found in same if found.status == "done" and found.seconds]
        if finished:
            seconds[job.id] = statistics.median(finished)
        elif job.arm in rehearsals:
            seconds[job.id] = _estimate(job, rehearsals[job.arm])
    return seconds


def _estimate(job: Job, seen: Rehearsal) -> float:
    evaluation = seen.val_images / (_EVALUATION_SPEED * seen.images_per_second)
    if job.tool == "evaluate":
        return _STARTING + evaluation
    trainer = job.config["trainer"]
    epochs, every = trainer["epochs"], trainer["eval_every"]
    evaluations = -(-epochs // every) if every else 1
    return seen.start_seconds + epochs * seen.train_images / seen.images_per_second + evaluations * evaluation


def makespan(plan: Plan, seconds: Mapping[str, float], slots: int, *, skip: Callable[[Job], bool]) -> float:
    """Seconds until all jobs but those to ``skip`` are done, ``slots`` at a time, in the order of the runner."""
    ends = [0.0] * slots
    finished: dict[str, float] = {}
    for job in plan.jobs:
        if skip(job):
            continue
        slot = min(range(slots), key=ends.__getitem__)
        begin = max([ends[slot], *(finished.get(need, 0.0) for need in job.needs)])
        ends[slot] = finished[job.id] = begin + seconds.get(job.id, 0.0)
    return max(ends)


def _lines(log: Path) -> list[dict[str, Any]]:
    try:
        texts = log.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for text in texts:
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


def _read(path: Path) -> dict[str, Rehearsal]:
    try:
        return {digest: Rehearsal(**content) for digest, content in (read_json(path) or {}).items()}
    except TypeError:  # of another version
        return {}
