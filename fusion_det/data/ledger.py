"""What reading a data set noticed: repairs and drops are counted, faults are gathered and told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from fusion_det.errors import DataError, FusionDetError, raise_all

SHOWN = 5


def printable(text: object, limit: int = 100) -> str:
    """``text`` as one safe, short piece of a message: control characters, lone surrogates and excess length are made visible."""
    shown = str(text)
    if not shown.isprintable():
        shown = ascii(shown)
    return shown if len(shown) <= limit else f"{shown[:limit]}... ({len(shown)} characters)"


def listed(names: Sequence[str], count: int | None = None) -> str:
    """The first five names and how many more there are."""
    count = len(names) if count is None else count
    shown = ", ".join(printable(name) for name in names[:SHOWN])
    return f"{shown} and {count - SHOWN} more" if count > SHOWN else shown


class Ledger:
    """Counts by cause, each with its first five examples; what a run shows beside its results."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.examples: dict[str, list[str]] = {}

    def add(self, cause: str, examples: Iterable[str] = (), count: int | None = None) -> None:
        """Count ``cause`` once per example, or ``count`` times; nothing happens for a count of 0."""
        examples = list(examples)
        count = len(examples) if count is None else count
        if count:
            self.counts[cause] = self.counts.get(cause, 0) + count
            kept = self.examples.setdefault(cause, [])
            kept.extend(printable(example) for example in examples[: SHOWN - len(kept)])

    def lines(self) -> list[str]:
        """One line per cause, for the log."""
        return [
            f"{count} x {cause}" + (f": {listed(self.examples[cause], count)}" if self.examples[cause] else "")
            for cause, count in self.counts.items()
        ]


class Findings:
    """Everything found in one file: a ledger of what was mended, and the faults that forbid its use."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.ledger = Ledger()
        self.faults: list[FusionDetError] = []

    def note(self, cause: str, rows: np.ndarray | Sequence[int], name: Callable[[int], str]) -> None:
        """Count ``cause`` once per row; ``name`` says what a row is called."""
        self.ledger.add(cause, [name(int(row)) for row in rows[:SHOWN]], len(rows))

    def fault(self, what: str, rows: np.ndarray | Sequence[int], name: Callable[[int], str], mend: str = "") -> None:
        """Gather one fault that names the first five rows; nothing happens without rows."""
        if len(rows):
            named = listed([name(int(row)) for row in rows[:SHOWN]], len(rows))
            self.faults.append(DataError(f"{what} ({len(rows)} x): {named}", where=self.where, mend=mend))

    def refuse(self, what: str, mend: str = "") -> None:
        """Gather one fault of the whole file."""
        self.faults.append(DataError(what, where=self.where, mend=mend))

    def raise_faults(self) -> None:
        """Raise a ``DataError`` (or ``Faults``) if any fault was gathered."""
        raise_all(self.faults)
