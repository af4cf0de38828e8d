"""Small SVG: elements that escape what they hold, scales with round ticks, and one sign per arm that needs no colour."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from fusion_det.evaluation.box_metrics import printable

WIDTH = 360
"""Of every chart, in its own units: about the pixels of a phone, so that texts stay readable there."""
LETTER = 7.0
"""Width of a letter at the charts' font size, about."""
COLOURS = 6
"""Besides the baseline's."""
_SHAPES = ("circle", "square", "triangle", "diamond", "down", "plus", "cross", "bar")
DASHES = ("", "6 3", "2 3", "8 3 2 3", "4 2 1 2 1 2")


def element(name: str, *children: Markup | str, **attributes: str | float | None) -> Markup:
    """``<name attributes>children</name>``; plain strings are escaped. ``class_`` is ``class``, other underscores are hyphens."""
    words = [name]
    for key, value in attributes.items():
        if value is not None:
            shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
            words.append(f'{key.rstrip("_").replace("_", "-")}="{escape(printable(str(shown)))}"')
    inside = "".join(str(child) if isinstance(child, Markup) else str(escape(printable(child))) for child in children)
    return Markup(f"<{' '.join(words)}>{inside}</{name}>")


def drawing(height: float, label: str, *children: Markup) -> Markup:
    """A chart of :data:`WIDTH` x ``height`` with ``label`` for those who cannot see it."""
    view = f"0 0 {WIDTH} {height:.0f}"
    return element("svg", *children, viewBox=view, role="img", aria_label=label, class_="chart")


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line of a CSS class."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def label(x: float, y: float, words: str, kind: str = "", *, anchor: str = "start", hint: str | None = None) -> Markup:
    """A text, with a longer one for the pointer."""
    children: list[Markup | str] = [element("title", hint)] if hint else []
    return element("text", *children, words, x=x, y=y, class_=kind or None, text_anchor=None if anchor == "start" else anchor)


def group(kind: str, *children: Markup, hint: str | None = None) -> Markup:
    """Elements of one CSS class."""
    return element("g", *([element("title", hint)] if hint else []), *children, class_=kind)


def colour(place: int) -> str:
    """The CSS class of the arm at ``place``; the baseline is 0."""
    return f"a{1 + (place - 1) % COLOURS if place else 0}"


def marker(place: int, x: float, y: float, size: float = 4.5) -> Markup:
    """The sign of the arm at ``place``; colours and shapes repeat at different lengths, so that no two arms look alike."""
    shape = _SHAPES[place % len(_SHAPES)]
    if shape == "circle":
        return element("circle", cx=x, cy=y, r=size, class_="fill")
    points = [(x + dx * size, y + dy * size) for dx, dy in _OUTLINES[shape]]
    return element("path", d=path(points) + "Z", class_="fill")


_T = 0.42
_PLUS = (
    (-_T, -1.15), (_T, -1.15), (_T, -_T), (1.15, -_T), (1.15, _T), (_T, _T),
    (_T, 1.15), (-_T, 1.15), (-_T, _T), (-1.15, _T), (-1.15, -_T), (-_T, -_T),
)  # fmt: skip
_OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "triangle": ((0, -1.15), (1.1, 0.85), (-1.1, 0.85)),
    "diamond": ((0, -1.25), (1.1, 0), (0, 1.25), (-1.1, 0)),
    "down": ((0, 1.15), (1.1, -0.85), (-1.1, -0.85)),
    "plus": _PLUS,
    "cross": tuple(((a - b) * 0.75, (a + b) * 0.75) for a, b in _PLUS),
    "bar": ((-0.5, -1.2), (0.5, -1.2), (0.5, 1.2), (-0.5, 1.2)),
}


def sign(place: int) -> Markup:
    """The sign of an arm within a text."""
    return element("svg", group(colour(place), marker(place, 6, 6, 4.4)), viewBox="0 0 12 12", class_="sign", aria_hidden="true")


def path(points: Iterable[tuple[float, float]]) -> str:
    """The ``d`` of straight lines through ``points``."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


@dataclass(frozen=True)
class Scale:
    """From values ``low`` to ``high`` to places ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    @classmethod
    def around(cls, values: Iterable[float], start: float, end: float, *, room: float = 0.06) -> Scale:
        """All of ``values``, with some room at both ends."""
        finite = [value for value in values if math.isfinite(value)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        spare = room * (high - low) if high > low else max(abs(high) * 0.05, 1e-6)
        return cls(low - spare, high + spare, start, end)

    def ticks(self, number: int = 5) -> list[float]:
        """About ``number`` round values inside."""
        raw = (self.high - self.low) / max(number, 1)
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 12) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def spread(places: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """``places`` moved apart to at least ``distance`` in their order, inside ``low`` to ``high`` as far as they fit."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    distance = min(distance, (high - low) / max(len(places) - 1, 1))
    moved = [0.0] * len(places)
    last = low - distance
    for i in order:
        moved[i] = last = max(places[i], last + distance)
    ceiling = high + distance
    for i in reversed(order):
        moved[i] = ceiling = min(moved[i], ceiling - distance)
    return moved


def tick_text(value: float) -> str:
    """A short number."""
    return f"{value:.6g}"
