"""Charts of differences, seeds and costs; every value is in the unit that is shown (AP x 100), every name is data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fusion_det.compare.report.svg import (
    LETTER,
    WIDTH,
    Scale,
    colour,
    drawing,
    element,
    group,
    label,
    line,
    marker,
    path,
    spread,
    tick_text,
)
from fusion_det.compare.report.words import shortened


@dataclass(frozen=True)
class Band:
    """One row of a forest plot: an estimate with its interval, and a wider one."""

    name: str
    place: int
    value: float
    low: float
    high: float
    outer: tuple[float, float] | None = None
    """Adjusted for the number of rows."""
    remark: str = ""
    """At the right of the name."""
    sure: bool = True
    """Not: the interval leaves out a source of noise."""


def forest(bands: Sequence[Band], label_text: str, *, margin: float | None = None, unit: str = "AP", toward: bool = True) -> Markup:
    """Estimates with intervals, one below the other, on a scale that holds 0, with the margin as a grey band."""
    row, top = 40, 22 if toward else 8
    bottom = top + row * len(bands)
    ends = [end for b in bands for end in (b.low, b.high, *(b.outer or ()))]
    scale = Scale.around([0.0, *ends, *([-margin, margin] if margin else [])], 12, WIDTH - 12)
    parts = axis(scale, top, bottom, unit)
    if margin:
        width = scale(margin) - scale(-margin)
        parts.insert(0, element("rect", x=scale(-margin), y=float(top), width=width, height=float(bottom - top), class_="margin"))
    parts.append(line(scale(0), top, scale(0), bottom, "zero"))
    if toward:
        parts += [label(4, 13, "← worse", "soft"), label(WIDTH - 4, 13, "better →", "soft", anchor="end")]
    for i, band in enumerate(bands):
        y = top + row * i + 29.0
        parts.append(_haloed(4, y - 14, shortened(band.name, 26), band.name))
        parts.append(label(WIDTH - 4, y - 14, band.remark, "soft halo", anchor="end"))
        hint = f"{band.name}: {band.value:+.2f} ({band.low:+.2f} to {band.high:+.2f})"
        outer = band.outer or (band.low, band.high)
        marks = [
            line(scale(outer[0]), y, scale(outer[1]), y, "thin"),
            line(scale(band.low), y, scale(band.high), y, "thick" if band.sure else "thick dashed"),
            marker(band.place, scale(band.value), y),
        ]
        parts.append(group(colour(band.place), *marks, hint=hint))
    return drawing(bottom + 34, label_text, *parts)


@dataclass(frozen=True)
class Dots:
    """The seeds of one arm."""

    name: str
    place: int
    values: tuple[tuple[str, float], ...]
    """Seed and value."""
    mean: float


def seed_dots(arms: Sequence[Dots], label_text: str, unit: str) -> Markup:
    """A row of dots per arm; thin lines join the dots of one seed."""
    row, top = 42, 24
    bottom = top + row * len(arms)
    scale = Scale.around([value for arm in arms for _, value in arm.values], 18, WIDTH - 18)
    parts = axis(scale, top, bottom, unit)
    rows = {arm.name: top + row * i + 29.0 for i, arm in enumerate(arms)}
    seeds = list(dict.fromkeys(seed for arm in arms for seed, _ in arm.values))
    for seed in seeds:
        points = [(scale(value), rows[arm.name]) for arm in arms for s, value in arm.values if s == seed]
        if len(points) > 1:
            parts.append(element("path", element("title", f"seed {seed}"), d=path(points), class_="pair"))
    first = arms[0]
    if len(first.values) <= 6:
        width = 6 + LETTER * max(len(seed) for seed, _ in first.values)
        places = spread([scale(value) for _, value in first.values], width, 44, WIDTH - 10)
        parts.append(label(4, 13, "seed", "soft"))
        parts += [label(x, 13, seed, "soft", anchor="middle") for (seed, _), x in zip(first.values, places, strict=True)]
        parts += [line(x, 17, scale(v), rows[first.name] - 6, "pair") for (_, v), x in zip(first.values, places, strict=True)]
    for arm in arms:
        y = rows[arm.name]
        marks = [element("g", element("title", f"{arm.name}, seed {s}: {v:.2f}"), marker(arm.place, scale(v), y)) for s, v in arm.values]
        parts.append(group(colour(arm.place), line(scale(arm.mean), y - 9, scale(arm.mean), y + 9, "thick"), *marks))
        parts.append(_haloed(4, y - 14, shortened(arm.name, 26), arm.name))
    return drawing(bottom + 34, label_text, *parts)


@dataclass(frozen=True)
class Point:
    """An arm in a chart of quality against cost."""

    name: str
    place: int
    cost: float
    value: float
    low: float
    high: float


def cost_chart(points: Sequence[Point], label_text: str, x_unit: str, y_unit: str) -> Markup:
    """Quality against cost with intervals; a dashed line joins what nothing beats at lower or equal cost."""
    left, top, bottom = 40, 12, 224
    across = Scale.around([p.cost for p in points], left + 6, WIDTH - 14, room=0.12)
    up = Scale.around([end for p in points for end in (p.low, p.high)], bottom, top)
    parts = grid(across, up, left, top, bottom, x_unit, y_unit)
    front = pareto_front(points)
    if len(front) > 1:
        parts.append(element("path", d=path([(across(p.cost), up(p.value)) for p in front]), class_="front"))
    taken = [_Box(across(p.cost) - 6, up(p.value) - 6, across(p.cost) + 6, up(p.value) + 6) for p in points]
    for p in points:
        x, y = across(p.cost), up(p.value)
        hint = f"{p.name}: {p.value:.2f} ({p.low:.2f} to {p.high:.2f}) at {p.cost:.4g} {x_unit}"
        parts.append(group(colour(p.place), line(x, up(p.low), x, up(p.high), "thin"), marker(p.place, x, y, 5), hint=hint))
    for p in sorted(points, key=lambda p: -p.value):
        name = shortened(p.name, 16)
        box = _free_place(across(p.cost), up(p.value), LETTER * len(name), taken, left, top, bottom)
        taken.append(box)
        parts.append(_haloed(box.left, box.bottom - 3, name, p.name))
    return drawing(bottom + 34, label_text, *parts)


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """What no other point beats in value at the same or less cost, by rising cost."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.value)):
        if not front or point.value > front[-1].value:
            front.append(point)
    return front


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: _Box) -> float:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0) * max(height, 0)


def _free_place(x: float, y: float, width: float, taken: Sequence[_Box], left: float, top: float, bottom: float) -> _Box:
    """Where beside the point at (x, y) a text covers the least of what is ``taken``."""
    best: tuple[float, _Box] | None = None
    for step in (0, 14, -14, 28, -28, 42, -42):
        for start in (x + 9, x - 9 - width, x - width / 2):
            middle = y + step + (0 if start != x - width / 2 else 15)
            box = _Box(start, middle - 7, start + width, middle + 7)
            outside = max(left - box.left, 0) + max(box.right - WIDTH, 0) + max(top - box.top, 0) + max(box.bottom - bottom, 0)
            harm = sum(box.overlap(other) for other in taken) + 50 * outside + abs(step)
            if best is None or harm < best[0]:
                best = (harm, box)
    assert best is not None
    return best[1]


def _haloed(x: float, y: float, words: str, hint: str) -> Markup:
    return label(x, y, words, "name halo", hint=hint)


def axis(scale: Scale, top: float, bottom: float, unit: str) -> list[Markup]:
    """Vertical grid lines with their numbers and the unit below."""
    parts = []
    for tick in scale.ticks():
        parts += [
            line(scale(tick), top, scale(tick), bottom, "grid"),
            label(scale(tick), bottom + 14, tick_text(tick), "tick", anchor="middle"),
        ]
    return [*parts, label(WIDTH / 2, bottom + 29, unit, "soft", anchor="middle")]


def grid(across: Scale, up: Scale, left: float, top: float, bottom: float, x_unit: str, y_unit: str) -> list[Markup]:
    """A frame with ticks on both sides."""
    parts = []
    for tick in across.ticks(4):
        parts += [
            line(across(tick), top, across(tick), bottom, "grid"),
            label(across(tick), bottom + 14, tick_text(tick), "tick", anchor="middle"),
        ]
    for tick in up.ticks(5):
        parts += [line(left, up(tick), WIDTH - 4, up(tick), "grid"), label(left - 5, up(tick) + 4, tick_text(tick), "tick", anchor="end")]
    return [*parts, label(WIDTH - 4, bottom + 29, x_unit, "soft", anchor="end"), label(4, bottom + 29, f"↑ {y_unit}", "soft")]
