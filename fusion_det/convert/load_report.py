"""What became of the tensors of a foreign file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


@dataclass
class LoadReport:
    """Names of tensors, ours unless said otherwise; ``counters`` of BatchNorm, which frozen ones do not have, are in none of the lists."""

    matched: list[str] = field(default_factory=list)
    """Taken from the file."""
    constant: list[str] = field(default_factory=list)
    """Not in the file, set to the value that does nothing."""
    missing: list[str] = field(default_factory=list)
    """Not in the file, left at their initial values."""
    reshaped: list[str] = field(default_factory=list)
    """In the file in another shape, left at their initial values; with both shapes."""
    unexpected: list[str] = field(default_factory=list)
    """Their names of tensors without a place here."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what was decided, such as which classes were taken."""

    @property
    def whole(self) -> bool:
        """Whether every tensor of ours has a value that was trained, and every one of theirs a place."""
        return bool(self.matched) and not (self.missing or self.reshaped or self.unexpected)

    def lines(self) -> list[str]:
        """A table, one row per part of the detector, then names of what did not fit and the notes."""
        columns = {
            "matched": self.matched,
            "constant": self.constant,
            "missing": self.missing,
            "other shape": self.reshaped,
            "unexpected": self.unexpected,
        }
        parts = sorted({_part(name) for names in columns.values() for name in names})
        rows = [["", *columns], *([part, *(str(_count(names, part)) for names in columns.values())] for part in parts)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        table = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
        for what in ("missing", "other shape", "unexpected"):
            table += [f"{what}: {', '.join(columns[what][:5])}{', ...' if len(columns[what]) > 5 else ''}"] if columns[what] else []
        return table + self.notes


def _part(name: str) -> str:
    return name.partition(".")[0]


def _count(names: Iterable[str], part: str) -> int:
    same: Callable[[str], bool] = lambda name: _part(name) == part  # noqa: E731
    return sum(map(same, names))
