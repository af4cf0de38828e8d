"""What a report says, before it is HTML or Markdown: both show the same sections, tables and words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

Kind = Literal["text", "number", "long"]
Style = Literal["", "better", "worse", "same", "unsure", "none", "bad", "good", "base"]
"""How a word looks; the word alone says it already."""
MOST_ROWS = 200


@dataclass(frozen=True)
class Column:
    """Of a table."""

    name: str
    kind: Kind = "text"


@dataclass(frozen=True)
class Cell:
    """A text in a table; names in it are data, escaped by whoever shows them."""

    text: str
    note: str = ""
    """A second, smaller line."""
    style: Style = ""
    shade: int | None = None
    """0 to 9, light to dark, for tables of shares."""
    arm: int | None = None
    """Place of the arm whose sign stands before the text."""


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns; too many rows are cut and counted."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str
    note: str = ""
    folded: bool = False
    """Shown only when asked for."""

    @property
    def shown(self) -> tuple[tuple[Cell, ...], ...]:
        """The first rows."""
        return self.rows[:MOST_ROWS]

    @property
    def left_out(self) -> int:
        """How many rows are not shown."""
        return max(0, len(self.rows) - MOST_ROWS)


@dataclass(frozen=True)
class Chart:
    """A drawing; its numbers must stand in a table too, as Markdown shows only those."""

    svg: Markup
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Code:
    """Commands."""

    caption: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A part of the report."""

    key: str
    title: str
    lead: tuple[str, ...] = ()
    """Short paragraphs."""
    charts: tuple[Chart, ...] = ()
    arms: bool = False
    """Whether the charts need a legend of the arms."""
    tables: tuple[Table, ...] = ()
    code: tuple[Code, ...] = ()
    bullets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Notice:
    """Something that nobody may overlook."""

    kind: Literal["stop", "warning", "information"]
    title: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What the study says of one arm."""

    arm: str
    place: int
    word: str
    style: Style
    text: str


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    question: str
    facts: tuple[tuple[str, str], ...]
    """Name and value."""
    arms: tuple[str, ...]
    """By place, the baseline first."""
    notices: tuple[Notice, ...]
    answers: tuple[Answer, ...]
    sections: tuple[Section, ...]


def text(*words: str) -> tuple[Cell, ...]:
    """Plain cells."""
    return tuple(Cell(word) for word in words)
