"""How far the run is: a bar on a terminal, plain log lines everywhere else, with the same numbers."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self, TextIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

logger = logging.getLogger(__name__)


class Progress:
    """Progress of a whole run of ``epochs`` x ``steps_per_epoch`` optimizer steps.

    Call :meth:`advance` after each step (cheap) and :meth:`report` at each log interval. The time left is that of the whole run,
    evaluations included once one has happened. ``first_step`` steps were done before a resume. ``bar=None`` draws a bar if ``stream``
    is a terminal. Colour is used only on a terminal and without ``NO_COLOR``.
    """

    def __init__(
        self, *, epochs: int, steps_per_epoch: int, first_step: int = 0, bar: bool | None = None, stream: TextIO | None = None
    ) -> None:
        if epochs < 1 or steps_per_epoch < 1 or first_step < 0:
            raise ValueError(f"expected epochs and steps >= 1, got {epochs} x {steps_per_epoch} from step {first_step}")
        stream = stream or sys.stderr
        self.epochs, self.steps_per_epoch, self.step = epochs, steps_per_epoch, first_step
        self._clock_step, self._clock_start = first_step, time.perf_counter()
        self._first_step, self._images, self._window_start = first_step, 0, time.perf_counter()
        self._exit = ExitStack()
        self._bar: tqdm | None = None
        if bar if bar is not None else stream.isatty():
            self._bar = self._exit.enter_context(
                tqdm(
                    total=epochs * steps_per_epoch,
                    initial=first_step,
                    file=stream,
                    ncols=_columns(),
                    colour=None if os.environ.get("NO_COLOR") or not stream.isatty() else "green",
                    bar_format="{desc} |{bar}| {percentage:3.0f}%{postfix}",
                    nrows=max(2, shutil.get_terminal_size().lines),
                )
            )
            self._exit.enter_context(logging_redirect_tqdm())
            self._draw("")

    def advance(self, images: int) -> None:
        """One optimizer step on ``images`` pictures (of all processes together) is done."""
        self.step += 1
        self._images += images
        if self.step == self._first_step + 1:
            # The first step compiles, tunes and fills caches; the forecast starts after it.
            self._clock_step, self._clock_start = self.step, time.perf_counter()
        if self._bar is not None:
            self._bar.update()

    def report(self, losses: Mapping[str, float]) -> float:
        """Show ``losses`` with speed and time left; gives the images per second since the last report."""
        now = time.perf_counter()
        speed = self._images / max(now - self._window_start, 1e-9)
        self._images, self._window_start = 0, now
        terms = " ".join(f"{name.removeprefix('train/')} {value:.4g}" for name, value in losses.items())
        text = f"{terms} | {speed:.1f} images/s | {_clock(self.seconds_left())} left"
        if self._bar is not None:
            self._draw(text)
        else:
            logger.info("%s, step %d/%d: %s", self._epoch(), self.step, self.epochs * self.steps_per_epoch, text)
        return speed

    def skip_time(self, seconds: float) -> None:
        """Take ``seconds`` (an evaluation, a save) out of the speed of this window; the time left keeps them."""
        self._window_start += seconds

    def seconds_left(self) -> float | None:
        """A forecast for the whole run from the mean time per step, ``None`` before the second step of this process."""
        done = self.step - self._clock_step
        if done <= 0:
            return None
        return (time.perf_counter() - self._clock_start) / done * max(0, self.epochs * self.steps_per_epoch - self.step)

    def close(self) -> None:
        """Leave the terminal as it was; may be called twice."""
        self._exit.close()
        self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _epoch(self) -> str:
        """The epoch that the last step belongs to, counted from 1."""
        return f"epoch {max(1, -(-self.step // self.steps_per_epoch))}/{self.epochs}"

    def _draw(self, text: str) -> None:
        assert self._bar is not None
        self._bar.ncols = _columns()
        self._bar.set_description_str(self._epoch(), refresh=False)
        self._bar.set_postfix_str(text)


def _columns() -> int:
    """The width of the terminal now, or of ``COLUMNS``; tqdm itself draws nothing where a terminal says that it has 0 columns."""
    return shutil.get_terminal_size().columns or 80


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}d {hours:02d}:{minutes:02d}:{rest:02d}" if days else f"{hours}:{minutes:02d}:{rest:02d}"
