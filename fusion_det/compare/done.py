"""Whether a job is done, read from its folder: the only truth that survives every kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from fusion_det.compare.plan import AFTER_TRAINING, HARMLESS, Job
from fusion_det.config.differences import differing
from fusion_det.config.run_folder import RESULTS, is_finished
from fusion_det.errors import ConfigError

PREDICTIONS = "predictions.json"
CONFIG = "config.yaml"


def is_done(job: Job) -> bool:
    """Whether ``job`` came to its end, with results and predictions in its folder."""
    return is_finished(job.folder) and (job.folder / PREDICTIONS).is_file()


def foreign_faults(jobs: tuple[Job, ...]) -> list[ConfigError]:
    """A fault for each folder that holds a run with another config than its job's: it must be neither taken over nor overwritten."""
    return [fault for job in jobs if (fault := _foreign(job)) is not None]


def _foreign(job: Job) -> ConfigError | None:
    if job.tool == "evaluate":
        return _other_evaluation(job)
    config = read_config(job.folder)
    if config is None:
        return None
    free = HARMLESS if not job.id.startswith("_shared-") else (*HARMLESS, *AFTER_TRAINING)
    changed = differing(config, job.config, free=free)
    if not changed:
        return None
    key, (old, new) = next(iter(changed.items()))
    more = f" and {len(changed) - 1} more keys" if len(changed) > 1 else ""
    return ConfigError(
        f"holds a run with {key}={old!r}, now it is {new!r}{more}",
        where=str(job.folder),
        mend="choose another name=NAME or folder=DIR for the study, or remove that folder",
    )


def _other_evaluation(job: Job) -> ConfigError | None:
    found = read_json(job.folder / RESULTS)
    if found is None or found.get("late_fusion") == job.config["late_fusion"]:
        return None
    what = f"holds an evaluation with another late_fusion: {found.get('late_fusion')}"
    return ConfigError(what, where=str(job.folder), mend="choose another name=NAME or folder=DIR for the study, or remove that folder")


def read_config(folder: Path) -> dict[str, Any] | None:
    """The resolved config of a run folder, if it has a whole one."""
    try:
        content = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return None
    return content if isinstance(content, dict) else None


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, if there is a whole one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
