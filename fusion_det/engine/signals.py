"""Ctrl-C and SIGTERM: finish the step, save, leave with the code that a scheduler expects."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from fusion_det.errors import FusionDetError


class Interrupted(FusionDetError):
    """The run was asked to stop and has saved its state."""

    def __init__(self, number: int, *, where: str, mend: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; everything is saved", where=where, mend=mend)
        self.exit_code = 128 + number


class StopRequest:
    """Remembers the first SIGINT or SIGTERM while active; a second one acts at once, as if this were not here."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def __exit__(self, *_: object) -> None:
        self._restore()
