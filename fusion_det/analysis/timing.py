"""Times of pieces of work that take turns, on the host or on a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

Work = Callable[[], object]
LEAST_ROUNDS = 5


class Times(NamedTuple):
    """Seconds of one call."""

    median: float
    p95: float
    """95 of 100 calls took no longer."""
    fastest: float
    rounds: int
    """Calls that were timed."""

    @classmethod
    def of(cls, seconds: list[float]) -> Times:
        """The summary of single calls."""
        ordered = sorted(seconds)
        return cls(statistics.median(ordered), ordered[-(-95 * len(ordered) // 100) - 1], ordered[0], len(ordered))

    def as_dict(self) -> dict[str, float | int]:
        """In milliseconds, for files."""
        return {"median_ms": 1e3 * self.median, "p95_ms": 1e3 * self.p95, "fastest_ms": 1e3 * self.fastest, "rounds": self.rounds}


class Clock(NamedTuple):
    """How long is measured."""

    device: torch.device
    warmup: int = 3
    """Calls of each piece of work before any is timed."""
    rounds: int = 30
    """Timed calls of each."""
    seconds: float = 10.0
    """After this time no further round begins, once :data:`LEAST_ROUNDS` (or ``rounds``, if that is less) are done."""

    def alternate(self, works: Mapping[str, Work]) -> dict[str, Times]:
        """Times of each of ``works``, called in turn, so that what else happens on the machine meets all alike.

        A GPU is waited for before the clock starts and before it stops: host and device are both in the time.
        """
        for _ in range(self.warmup):
            for work in works.values():
                work()
        times: dict[str, list[float]] = {name: [] for name in works}
        begin = time.perf_counter()
        for done in range(self.rounds):
            if done >= LEAST_ROUNDS and time.perf_counter() - begin > self.seconds:
                break
            for name, work in works.items():
                times[name].append(self._time(work))
        return {name: Times.of(values) for name, values in times.items()}

    def _time(self, work: Work) -> float:
        self._wait()
        begin = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - begin

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
