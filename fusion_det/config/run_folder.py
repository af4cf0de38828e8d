"""The folder of a run: made once, held by one live process, found again to go on."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fusion_det.config.environment import describe_environment, scrub_secrets
from fusion_det.config.files import write_json, write_yaml
from fusion_det.config.lock import LOCK_NAME, FolderLock
from fusion_det.config.schema import TrainConfig
from fusion_det.errors import ConfigError, FusionDetError

RUNS = Path("runs")
CHECKPOINT = "last.pt"
RESULTS = "results.json"
BEST_PREDICTIONS = "predictions_best.json"
"""Beside ``predictions.json``, which is of the last evaluation."""
START = "start.json"
AUTO = "auto"
_MARKS = ("config.yaml", "overrides.yaml", "environment.json", CHECKPOINT, LOCK_NAME)
"""A folder that holds one of these was made by :func:`make_run_folder`."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of this run, locked. ``checkpoint``: go on from here, if not ``None``. ``finished``: there is nothing left to do."""

    path: Path
    lock: FolderLock
    checkpoint: Path | None = None
    finished: bool = False

    def release(self) -> None:
        """Let another process use the folder."""
        self.lock.release()


def make_run_folder(settings: TrainConfig, overrides: Sequence[str]) -> RunFolder:
    """Make or re-enter the folder of a run, lock it and write config.yaml, overrides.yaml and environment.json.

    A new run gets ``runs/<name>/<time>-<id>``, or ``run_dir``, which must be absent or empty. A resumed one gets the folder of its
    checkpoint (``resume=auto`` also re-enters a ``run_dir`` that died before its first checkpoint); a finished one is left as it is.
    Raises ``ConfigError`` if the folder is in use, ``FusionDetError`` if it cannot be written.
    """
    checkpoint = find_resume(settings)
    folder = _choose(settings, checkpoint)
    again = folder.is_dir() and (_same(checkpoint, folder) or (settings.resume == AUTO and _is_ours(folder)))
    try:
        folder = folder if again else _make(folder, exact=settings.run_dir is not None)
        lock = FolderLock(folder)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        if not again and any(entry.name != LOCK_NAME for entry in folder.iterdir()):
            raise _not_empty(folder)
        if again and settings.resume == AUTO and is_finished(folder):
            return RunFolder(folder, lock, folder / CHECKPOINT, finished=True)
        _write_records(folder, settings, overrides)
    except BaseException as error:
        lock.release()
        if isinstance(error, OSError):
            raise _cannot_write(folder, error) from error
        raise
    return RunFolder(folder, lock, checkpoint)


def find_resume(settings: TrainConfig) -> Path | None:
    """The checkpoint that ``resume`` means, or ``None`` for a fresh start.

    ``auto``: ``last.pt`` of ``run_dir``, or else of the newest unfinished run of this name, if there is one. A folder: its
    ``last.pt``. A file: itself. Raises ``ConfigError`` if a named one is not there.
    """
    if settings.resume is None:
        return None
    if settings.resume == AUTO:
        folders = [Path(settings.run_dir)] if settings.run_dir else _runs(settings.name)
        return next((folder / CHECKPOINT for folder in folders if (folder / CHECKPOINT).is_file() and not is_finished(folder)), None)
    path = Path(settings.resume)
    path = path / CHECKPOINT if path.is_dir() else path
    if not path.is_file():
        raise ConfigError(f"no checkpoint {path}", where="resume", mend="name a run folder with last.pt, a checkpoint file, or auto")
    return path


def is_finished(folder: Path) -> bool:
    """Whether the run of ``folder`` came to its end."""
    try:
        content = json.loads((folder / RESULTS).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("finished") is True


def _runs(name: str) -> list[Path]:
    """The run folders of ``name``, newest first by the time in their names (copying a folder changes its time stamps)."""
    parent = RUNS / name
    return sorted((path for path in parent.iterdir() if path.is_dir()), key=lambda path: path.name, reverse=True) if parent.is_dir() else []


def _choose(settings: TrainConfig, checkpoint: Path | None) -> Path:
    if settings.run_dir is not None:
        return Path(settings.run_dir)
    return checkpoint.parent if checkpoint is not None else RUNS / settings.name


def _same(checkpoint: Path | None, folder: Path) -> bool:
    return checkpoint is not None and checkpoint.parent.resolve() == folder.resolve()


def _is_ours(folder: Path) -> bool:
    return any((folder / name).exists() for name in _MARKS)


def _make(folder: Path, *, exact: bool) -> Path:
    """``folder`` itself, absent or empty until now, or a fresh sub-folder named by the time."""
    if exact:
        if folder.is_dir() and any(entry.name != LOCK_NAME for entry in folder.iterdir()):
            raise _not_empty(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    while True:
        fresh = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        try:
            fresh.mkdir(parents=True, exist_ok=False)
        except FileExistsError:
            continue
        return fresh


def _write_records(folder: Path, settings: TrainConfig, overrides: Sequence[str]) -> None:
    write_yaml(folder / "config.yaml", settings.plain())
    write_yaml(folder / "overrides.yaml", [scrub_secrets(text) for text in overrides])
    write_json(folder / "environment.json", describe_environment(settings.seed))


def _not_empty(folder: Path) -> ConfigError:
    return ConfigError(
        "already in use: the folder is not empty", where=str(folder), mend="choose another run_dir, or go on with it by resume=auto"
    )


def _cannot_write(folder: Path, error: OSError) -> FusionDetError:
    return FusionDetError(
        f"cannot write: {error.strerror or error}", where=str(folder), mend="choose a folder that you may write, with run_dir=DIR"
    )
