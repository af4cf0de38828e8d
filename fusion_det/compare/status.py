"""How far a study is: a table of arms x seeds that is redrawn on a terminal, one plain line per event everywhere else."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from fusion_det.compare.done import read_json
from fusion_det.compare.forecast import job_seconds
from fusion_det.compare.plan import Job, Plan
from fusion_det.compare.state import JobState, StudyState
from fusion_det.config.run_folder import RESULTS, START

_REDRAW = 0.5
_HEARTBEAT = 60.0


class StatusTable:
    """A :class:`~fusion_det.compare.runner.Display` on ``stream``; ``seconds_of`` are forecasts per job, where there are some."""

    def __init__(
        self, plan: Plan, state: StudyState, stream: TextIO, *, slots: int, metric: str = "AP", seconds_of: dict[str, float] | None = None
    ) -> None:
        self.plan, self.state, self.stream, self.slots, self.metric = plan, state, stream, slots, metric
        self.seconds_of = seconds_of or {}
        self.live = stream.isatty()
        self._drawn = 0
        self._last = time.monotonic()
        self._running: dict[str, float] = {}

    def event(self, job: Job, state: JobState) -> None:
        """See ``Display``."""
        if self.live:
            self._draw()
        elif state.status == "running":
            again = f" (start {state.attempts})" if state.attempts > 1 else ""
            self._write(f"{self._count()} {job.id}: started{again}")
        else:
            self._write(f"{self._count()} {job.id}: {self._told(job, state)}{self._left()}")

    def refresh(self, running: Sequence[tuple[Job, float]]) -> None:
        """See ``Display``."""
        self._running = {job.id: seconds for job, seconds in running}
        wait = _REDRAW if self.live else _HEARTBEAT
        if not running or time.monotonic() - self._last < wait:
            return
        self._last = time.monotonic()
        if self.live:
            self._draw()
        else:
            told = ", ".join(f"{job.id} {_percent(job)}" for job, _ in running)
            self._write(f"{self._count()} running: {told}{self._left()}")

    def finish(self) -> None:
        """Leave the last table where it is."""
        if self.live:
            self._draw()

    def table(self) -> list[str]:
        """The lines of the table: an arm a row, a seed a column, then what is left."""
        jobs = {job.id: job for job in self.plan.jobs}
        owners = list(dict.fromkeys(job.id.rpartition("/")[0] for job in self.plan.jobs))
        rows = [["arm", *(f"seed {seed}" for seed in self.plan.seeds)]]
        rows += [[owner, *(self._cell(jobs.get(f"{owner}/seed{seed}")) for seed in self.plan.seeds)] for owner in owners]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return [*lines, f"{self._summary()}{self._left()}"]

    def _cell(self, job: Job | None) -> str:
        if job is None:
            return ""
        state = self.state[job.id]
        if state.status == "running":
            return f"{_percent(job)} {self._running.get(job.id, 0.0):.0f} s"
        return self._told(job, state, brief=True)

    def _told(self, job: Job, state: JobState, *, brief: bool = False) -> str:
        if state.status == "done":
            value = (read_json(job.folder / RESULTS) or {}).get("summary", {}).get(self.metric)
            number = f"{self.metric} {100 * value:.1f}" if isinstance(value, float | int) else "done"
            return number if brief else f"done, {number} ({state.seconds:.0f} s)"
        if brief or not state.message:
            return state.status
        return f"{'fails, is tried again' if state.failures and state.status == 'waiting' else state.status}: {state.message}"

    def _statuses(self) -> list[str]:
        return [self.state[job.id].status for job in self.plan.jobs]

    def _count(self) -> str:
        total = len(self.plan.jobs)
        return f"[{self._statuses().count('done'):{len(str(total))}d}/{total}]"

    def _summary(self) -> str:
        statuses = self._statuses()
        words = [f"{statuses.count('done')} of {len(statuses)} done"]
        words += [f"{statuses.count(name)} {name}" for name in ("running", "failed", "blocked", "interrupted") if name in statuses]
        return ", ".join(words)

    def _left(self) -> str:
        """The time left: forecasts, or the mean of what finished; an estimate."""
        open_jobs = [job for job in self.plan.jobs if self.state[job.id].status in ("waiting", "running", "interrupted")]
        seconds = {**self.seconds_of, **job_seconds(self.plan, self.state, {})}
        if not open_jobs or not seconds:
            return ""
        mean = sum(seconds.values()) / len(seconds)
        total = sum(max(0.0, seconds.get(job.id, mean) - self._running.get(job.id, 0.0)) for job in open_jobs)
        return f"; about {duration(total / min(self.slots, len(open_jobs)))} left"

    def _draw(self) -> None:
        columns, lines = shutil.get_terminal_size()
        table = self.table()
        table = table if len(table) < lines else [*table[: lines - 3], "...", table[-1]]
        up = f"\x1b[{self._drawn}A\x1b[J" if self._drawn else ""
        self._write(up + "\n".join(line[: columns - 1] for line in table))
        self._drawn = len(table)

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text + "\n")
            self.stream.flush()
        except OSError:  # a closed pipe must not end a study
            pass


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _percent(job: Job) -> str:
    """How far a training run is, by the steps in its log."""
    steps = (read_json(job.folder / START) or {}).get("steps")
    step = last_step(job.folder / "metrics.jsonl")
    return f"{100 * step / steps:.0f} %" if steps and step is not None else "starting" if job.tool == "train" else "evaluating"


def last_step(log: Path) -> int | None:
    """The last step in a ``metrics.jsonl``."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 8192))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue
        return step if isinstance(step, int) else None
    return None
