"""Runs the jobs of a study: skips what is done, goes on with what was interrupted, tries again what failed, and never stops for one.

All work is done by processes of their own; what they leave in their folders decides whether a job is done. So the runner itself may be
killed at any moment: started again, it redoes nothing and loses nothing.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fusion_det.compare.done import is_done
from fusion_det.compare.launch import Command, Handle, Launcher, stop_all
from fusion_det.compare.plan import Job
from fusion_det.compare.slots import Slot
from fusion_det.compare.state import JobState, StudyState
from fusion_det.config.lock import LOCK_NAME, FolderLock
from fusion_det.engine.signals import StopRequest
from fusion_det.errors import ConfigError
from fusion_det.evaluation.box_metrics import printable

_HOPELESS = (2, 3)
"""Exit codes of faults in config and data, which another try would only repeat."""
_LOCK_WAIT = 5.0
"""Seconds between two looks at a folder that another process still holds."""


class Display(Protocol):
    """Who is told what happens."""

    def event(self, job: Job, state: JobState) -> None:
        """The state of ``job`` has changed."""

    def refresh(self, running: Sequence[tuple[Job, float]]) -> None:
        """Some time has passed; the jobs that run, with their seconds."""


@dataclass
class _Running:
    job: Job
    slot: Slot
    handle: Handle
    started: float


class Runner:
    """Brings ``jobs`` to their ends on ``slots``; ``command_of`` tells what to start for a job in a slot."""

    def __init__(
        self,
        jobs: Sequence[Job],
        state: StudyState,
        launcher: Launcher,
        slots: Sequence[Slot],
        *,
        command_of: Callable[[Job, Slot], Command],
        display: Display,
        retries: int = 1,
        pause: float = 0.2,
    ) -> None:
        self.jobs, self.state, self.launcher, self.command_of = list(jobs), state, launcher, command_of
        self.display, self.retries, self.pause = display, retries, pause
        self.free = list(slots)
        self.running: list[_Running] = []
        self._not_before: dict[str, float] = {}

    def run(self, stop: StopRequest) -> None:
        """Until nothing is left to do, or ``stop`` was asked: then every child gets the signal and time to save."""
        self.state.begin(job.id for job in self.jobs)
        for job in self.jobs:
            if is_done(job) and self.state[job.id].status != "done":
                self._change(job, status="done", message="")
            elif not is_done(job) and self.state[job.id].status == "done":
                self._change(job, status="waiting")  # somebody removed its results
        try:
            while stop.number is None and self._step():
                time.sleep(self.pause)
        except BaseException:  # a second Ctrl-C, or a fault of ours: no child may be left behind
            self._end(signal.SIGTERM, hurry=True)
            raise
        if stop.number is not None:
            self._end(stop.number)

    def _step(self) -> bool:
        """Look after what runs and start what can be started; false if nothing is left."""
        for running in [running for running in self.running if running.handle.poll() is not None]:
            self._collect(running)
        waiting = [job for job in self.jobs if self.state[job.id].status in ("waiting", "interrupted") and not self._is_running(job)]
        for job in waiting:
            statuses = [self.state[need].status for need in job.needs]
            if any(status in ("failed", "blocked") for status in statuses):
                self._change(job, status="blocked", message=f"needs {', '.join(job.needs)}")
            elif self.free and all(status == "done" for status in statuses) and self._may_start(job):
                self._start(job)
        self.display.refresh([(running.job, time.monotonic() - running.started) for running in self.running])
        return bool(self.running) or any(self.state[job.id].status in ("waiting", "interrupted") for job in self.jobs)

    def _is_running(self, job: Job) -> bool:
        return any(running.job is job for running in self.running)

    def _may_start(self, job: Job) -> bool:
        """Whether nobody holds the job's folder: the child of a killed runner may still be saving there."""
        if time.monotonic() < self._not_before.get(job.id, 0.0):
            return False
        if not (job.folder / LOCK_NAME).is_file():
            return True
        try:
            FolderLock(job.folder).release()
        except ConfigError as error:
            self._not_before[job.id] = time.monotonic() + _LOCK_WAIT
            if self.state[job.id].message != error.what:
                self._change(job, message=error.what)
            return False
        return True

    def _start(self, job: Job) -> None:
        slot = self.free.pop(0)
        state = self.state[job.id]
        self._change(job, status="running", attempts=state.attempts + 1, message="")
        handle = self.launcher.start(self.command_of(job, slot), job.id)
        self.running.append(_Running(job, slot, handle, time.monotonic()))

    def _collect(self, running: _Running) -> None:
        """Judge a job that has ended."""
        job, state, code = running.job, self.state[running.job.id], running.handle.poll()
        self.running.remove(running)
        self.free.append(running.slot)
        self.free.sort(key=lambda slot: slot.number)
        seconds = state.seconds + time.monotonic() - running.started
        if is_done(job):  # also with code 4, when a number missed what eval.expect demands: it is a result all the same
            self._change(job, status="done", code=code, seconds=seconds, message=last_words(self.log_of(job)) if code else "")
            return
        failures = state.failures + 1
        message = last_words(self.log_of(job)) or ("ended without results" if code == 0 else "said nothing")
        hopeless = code in _HOPELESS or failures > self.retries
        self._change(
            job, status="failed" if hopeless else "waiting", code=code, failures=failures, seconds=seconds,
            message=f"exit code {code}: {message}",
        )  # fmt: skip

    def _end(self, number: int, *, hurry: bool = False) -> None:
        """Stop all children; what they had not finished is interrupted, to be gone on with."""
        with StopRequest() as again:
            stop_all([running.handle for running in self.running], number, hurry=lambda: hurry or again.number is not None)
        for running in list(self.running):
            seconds = self.state[running.job.id].seconds + time.monotonic() - running.started
            status = "done" if is_done(running.job) else "interrupted"
            self.running.remove(running)
            self._change(running.job, status=status, code=running.handle.poll(), seconds=seconds)

    def _change(self, job: Job, **changes: object) -> None:
        self.display.event(job, self.state.update(job.id, **changes))

    @staticmethod
    def log_of(job: Job) -> Path:
        """Where the output of ``job`` goes."""
        return job.folder.with_name(f"{job.folder.name}.log")


def last_words(log: Path) -> str:
    """The last line of ``log`` that begins with ``error:``, or its last line at all: printable and at most 200 letters."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 20_000))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    errors = [line for line in lines[-20:] if line.startswith("error:")]
    chosen = (errors or lines or [""])[-1]
    return printable(chosen)[:200]
