"""Which trained detector stands for each arm: one run, of a seed that all arms have if there is one, at the end of its training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fusion_det.compare.outcome import Outcome
from fusion_det.compare.run_record import RunRecord
from fusion_det.config.run_folder import CHECKPOINT


@dataclass(frozen=True)
class Subject:
    """An arm whose checkpoint is there."""

    arm: str
    run: RunRecord
    checkpoint: Path
    """``last.pt``: the weights that the predictions of the run were made with."""
    digest: str
    """SHA-256 of the file."""


@dataclass(frozen=True)
class Subjects:
    """The arms of a study that can be looked at, and why the others cannot."""

    found: tuple[Subject, ...] = ()
    why: dict[str, str] = field(default_factory=dict)
    """By arm."""
    seed: int | None = None
    """If it is the same for all."""

    def __iter__(self) -> Iterator[Subject]:
        return iter(self.found)


def subjects_of(outcome: Outcome) -> Subjects:
    """One run of each arm with finished runs."""
    arms = [arm for arm in outcome.arms if outcome.of_arm(arm)]
    shared = set.intersection(*({run.seed for run in outcome.of_arm(arm)} for arm in arms)) if arms else set()
    found: list[Subject] = []
    why: dict[str, str] = {}
    seen: dict[Path, str] = {}
    for arm in arms:
        runs = outcome.of_arm(arm)
        run = next((run for run in runs if run.seed in shared), runs[0])
        checkpoint = (run.trained or Path()) / CHECKPOINT
        if run.trained is None:
            continue  # a file of any framework: nobody expects more of it
        if checkpoint.resolve() in seen:
            why[arm] = f"it shares its training runs with {seen[checkpoint.resolve()]}"
        elif not checkpoint.is_file():
            why[arm] = f"its checkpoint {outcome.short(checkpoint)} is not there"
        else:
            seen[checkpoint.resolve()] = arm
            with checkpoint.open("rb") as file:
                found.append(Subject(arm, run, checkpoint, hashlib.file_digest(file, "sha256").hexdigest()))
    return Subjects(tuple(found), why, min(shared) if shared else None)
