"""Studies of fake runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from fusion_det.compare.launch import Command, LocalLauncher
from fusion_det.compare.plan import Job
from fusion_det.compare.runner import Runner
from fusion_det.compare.slots import Slot
from fusion_det.compare.state import StudyState

FAKE = Path(__file__).with_name("fake_train.py")


class Record:
    """A display that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.most = 0

    def event(self, job, state) -> None:
        self.events.append((job.id, state.status))

    def refresh(self, running) -> None:
        self.most = max(self.most, len(running))


def make_jobs(root: Path, arms: int = 3, seeds: int = 2, needs: Mapping[str, tuple[str, ...]] | None = None) -> list[Job]:
    return [
        Job(name, f"arm{arm}", seed, "train", root / "runs" / f"arm{arm}" / f"seed{seed}", (), {}, (needs or {}).get(name, ()))
        for seed in range(seeds)
        for arm in range(arms)
        for name in [f"arm{arm}/seed{seed}"]
    ]


def make_runner(root: Path, jobs: list[Job], *, slots: int = 2, steps: int = 20, behaviour: Mapping[str, str] | None = None, **options):
    """(runner, display) for ``jobs`` of ``steps`` fake steps."""

    def command(job: Job, slot: Slot) -> Command:
        words = (sys.executable, "-I", "-S", str(FAKE), str(job.folder), str(steps), (behaviour or {}).get(job.id, ""))
        return Command(words, Runner.log_of(job), slot.environment)

    root.mkdir(parents=True, exist_ok=True)
    display = Record()
    share = [Slot(number, 1) for number in range(slots)]
    options = {"pause": 0.01, **options}
    return Runner(jobs, StudyState(root), LocalLauncher(), share, command_of=command, display=display, **options), display


def steps_of(job: Job) -> list[int]:
    return [int(line) for line in (job.folder / "steps.txt").read_text().split()]
