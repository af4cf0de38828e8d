"""``state.json`` of a study: how often each job was tried and how that ended.

The truth about what is done lies in the run folders; this file adds what they cannot tell. It is written whole after every change, so a
runner that is killed loses nothing but the time of what was running.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from fusion_det.config.files import write_json
from fusion_det.errors import FusionDetError

logger = logging.getLogger(__name__)

STATE = "state.json"
FORMAT = 1
Status = Literal["waiting", "running", "done", "failed", "interrupted", "blocked"]
"""blocked: a job that it needs has failed."""


@dataclass(frozen=True)
class JobState:
    """What is known of one job."""

    status: Status = "waiting"
    attempts: int = 0
    """Starts, also those that continued an interrupted run."""
    failures: int = 0
    """Attempts of this call of the runner that failed."""
    code: int | None = None
    """Exit code of the last attempt."""
    seconds: float = 0.0
    """Wall time of all attempts that ended while a runner watched."""
    message: str = ""
    """Why it failed, in one line."""


class StudyState:
    """The states of a study's jobs, on disk at all times."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / STATE
        self.jobs: dict[str, JobState] = _read(self.path)

    def __getitem__(self, job: str) -> JobState:
        return self.jobs.get(job, JobState())

    def update(self, job: str, **changes: Any) -> JobState:
        """Change the state of one job and write the file."""
        self.jobs[job] = replace(self[job], **changes)
        self.write()
        return self.jobs[job]

    def begin(self, jobs: Iterable[str]) -> None:
        """What a runner finds when it starts: nothing runs, and failed jobs get their tries again."""
        for job in jobs:
            state = self[job]
            status: Status = (
                "interrupted" if state.status == "running" else "waiting" if state.status in ("failed", "blocked") else state.status
            )
            self.jobs[job] = replace(state, status=status, failures=0)
        self.write()

    def write(self) -> None:
        """Bring the file up to date."""
        try:
            write_json(self.path, {"format": FORMAT, "jobs": {name: asdict(state) for name, state in self.jobs.items()}})
        except OSError as error:
            raise FusionDetError(f"cannot write: {error.strerror or error}", where=str(self.path), mend="free some space") from error


def _read(path: Path) -> dict[str, JobState]:
    """The states in the file; none if there is no file, or one that cannot be read (it is then made anew from the run folders)."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        return {str(name): _job_state(state) for name, state in content["jobs"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s cannot be used (%s); it is made again from the run folders, times are lost", path, error)
        return {}


def _job_state(content: Mapping[str, Any]) -> JobState:
    return JobState(**{field.name: content[field.name] for field in fields(JobState)})
