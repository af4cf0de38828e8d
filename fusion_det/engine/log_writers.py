"""The numbers, pictures and texts of a run: ``metrics.jsonl`` for programs, TensorBoard events and PNG files for people.

A log is never worth a training run: a full disk or a missing TensorBoard gives one warning, and training goes on.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fusion_det.config.files import write_atomic
from fusion_det.visualize import save_png

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


class RunLog:
    """Writes into a run folder: ``metrics.jsonl``, ``tensorboard/`` and ``pictures/``.

    ``resume_step`` is the step of the checkpoint that a run continues from: what was logged after it is dropped, so that no step is
    logged twice. With ``None`` the run is new, and an earlier ``metrics.jsonl`` is kept as ``metrics.previous.jsonl``.
    """

    def __init__(self, folder: str | Path, *, tensorboard: bool = True, resume_step: int | None = None) -> None:
        self.folder = Path(folder)
        self._warned: set[str] = set()
        self._metrics = _JsonLines(self.folder / "metrics.jsonl")
        self._attempt("metrics.jsonl", lambda: self._metrics.open(resume_step))
        self._events = self._open_tensorboard(resume_step) if tensorboard else None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log ``values`` by tag (``train/loss``, ``val/AP``, ...) at the global iteration ``step``; anything ``float()`` takes."""
        if taken := {"step", "time"} & values.keys():
            raise ValueError(f"expected tags such as 'train/loss', got the reserved {sorted(taken)}")
        numbers = {tag: float(value) for tag, value in values.items()}
        self._attempt("metrics.jsonl", lambda: self._metrics.append({"step": int(step), "time": round(time.time(), 3), **numbers}))
        for tag, number in numbers.items():
            self._to_tensorboard("add_scalar", tag, number, step)

    def picture(self, tag: str, step: int, picture: Tensor) -> None:
        """Log a uint8 [3, H, W] picture, also as ``pictures/<tag>_<step>.png``."""
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", tag).strip("._") or "picture"
        self._attempt("pictures", lambda: self._save_picture(f"{name}_{step:08d}.png", picture))
        self._to_tensorboard("add_image", tag, picture.cpu(), step)

    def text(self, tag: str, step: int, text: str) -> None:
        """Log a text (TensorBoard shows it as Markdown)."""
        self._to_tensorboard("add_text", tag, text, step)

    def close(self) -> None:
        """Bring everything to the disk; may be called twice, and the log takes no more after it."""
        self._metrics.close()
        self._to_tensorboard("close")
        self._events = None

    def _save_picture(self, name: str, picture: Tensor) -> None:
        (self.folder / "pictures").mkdir(exist_ok=True)
        save_png(self.folder / "pictures" / name, picture)

    def _open_tensorboard(self, resume_step: int | None) -> SummaryWriter | None:
        try:
            from torch.utils.tensorboard import SummaryWriter

            # TensorBoard hides events from purge_step on. A fresh event file is written, never an old one appended to.
            purge_step = None if resume_step is None else resume_step + 1
            return SummaryWriter(str(self.folder / "tensorboard"), purge_step=purge_step)
        except Exception as error:  # third-party code that only makes logs: whatever it raises must not stop training
            self._warn("tensorboard", error)
            return None

    def _to_tensorboard(self, method: str, *arguments: Any) -> None:
        if self._events is None:
            return
        try:
            getattr(self._events, method)(*arguments)
        except Exception as error:
            self._events = None
            self._warn("tensorboard", error)

    def _attempt(self, part: str, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            self._warn(part, error)

    def _warn(self, part: str, error: Exception) -> None:
        if part not in self._warned:
            self._warned.add(part)
            logger.warning("%s: cannot write %s (%s); training goes on without what is lost there", self.folder, part, error)


class _JsonLines:
    """One JSON object per line, each handed to the system at once, so that a kill loses at most the line being written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._torn = False

    def open(self, resume_step: int | None) -> None:
        if self.path.exists():
            if resume_step is None:
                self.path.replace(self.path.with_name("metrics.previous.jsonl"))
            else:
                kept = [
                    line for line in self.path.read_bytes().splitlines() if (step := _step_of(line)) is not None and step <= resume_step
                ]
                write_atomic(self.path, b"".join(line + b"\n" for line in kept))
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def append(self, record: dict[str, Any]) -> None:
        if self._descriptor is None:
            return
        finite = {key: value if math.isfinite(value) else None for key, value in record.items()}
        line = (json.dumps(finite, allow_nan=False) + "\n").encode()
        line = b"\n" + line if self._torn else line
        self._torn = True  # until the whole line is out; a torn line is closed before the next one
        self._torn = os.write(self._descriptor, line) < len(line)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _step_of(line: bytes) -> int | None:
    """The step of one line, or ``None`` for a line that a kill cut short."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None
