"""How far a study is, on a terminal and in a log."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from fusion_det.compare.plan import Job, Plan
from fusion_det.compare.state import JobState, StudyState
from fusion_det.compare.status import StatusTable, duration, last_step


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def plan(tmp_path) -> Plan:
    jobs = tuple(
        Job(f"{arm}/seed{seed}", arm, seed, "train", tmp_path / "runs" / arm / f"seed{seed}", (), {})
        for seed in (0, 1)
        for arm in ("a", "bb")
    )
    return Plan(tmp_path, (), (0, 1), "a", jobs)


def half_way(plan: Plan) -> StudyState:
    """a/seed0 done, bb/seed0 at 30 %, a/seed1 failed, bb/seed1 waiting."""
    state = StudyState(plan.folder)
    done, running, *_ = plan.jobs
    for job in (done, running):
        job.folder.mkdir(parents=True)
    (done.folder / "results.json").write_text('{"summary": {"AP": 0.789}}')
    (running.folder / "start.json").write_text('{"steps": 40}')
    (running.folder / "metrics.jsonl").write_text('{"step": 10}\n{"step": 12}\n{"step": 1')
    state.jobs = {
        "a/seed0": JobState("done", 1, seconds=100.0),
        "bb/seed0": JobState("running", 1),
        "a/seed1": JobState("failed", 2, 2, 1, 9.0, "exit code 1: no space"),
    }
    return state


def test_the_table_tells_every_run(plan):
    state = half_way(plan)
    table = StatusTable(plan, state, io.StringIO(), slots=1, seconds_of={"bb/seed0": 50.0, "bb/seed1": 50.0})
    table.refresh([(plan.jobs[1], 20.0)])
    assert table.table() == [
        "arm  seed 0     seed 1",
        "a    AP 78.9    failed",
        "bb   30 % 20 s  waiting",
        "1 of 4 done, 1 running, 1 failed; about 80 s left",
    ]


def test_a_log_gets_one_plain_line_per_event(plan):
    state, stream = half_way(plan), io.StringIO()
    table = StatusTable(plan, state, stream, slots=1)
    for job in plan.jobs[:3]:
        table.event(job, state[job.id])
    assert stream.getvalue().splitlines() == [
        "[1/4] a/seed0: done, AP 78.9 (100 s); about 3 min left",
        "[1/4] bb/seed0: started",
        "[1/4] a/seed1: failed: exit code 1: no space; about 3 min left",
    ]


def test_a_terminal_gets_the_table_redrawn_in_place(plan, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "20")
    state, stream = half_way(plan), Terminal()
    table = StatusTable(plan, state, stream, slots=1)
    table.event(plan.jobs[0], state["a/seed0"])
    table.finish()
    first, second = stream.getvalue().split("\x1b[4A\x1b[J")
    assert first == second
    assert max(map(len, first.splitlines())) < 40


def test_a_closed_pipe_does_not_end_a_study(plan):
    tried = []

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            tried.append(text)
            raise BrokenPipeError

    StatusTable(plan, half_way(plan), Closed(), slots=1).event(plan.jobs[0], JobState("running"))
    assert tried


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (5399, "90 min"), (7200, "2.0 h")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_last_step_of_a_log(tmp_path: Path):
    log = tmp_path / "metrics.jsonl"
    assert last_step(log) is None
    log.write_text("".join(json.dumps({"step": n, "x": "y" * 200}) + "\n" for n in range(200)) + '{"st')
    assert last_step(log) == 199
