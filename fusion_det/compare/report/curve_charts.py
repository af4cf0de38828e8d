"""Charts of lines and bars; every value is in the unit that is shown (AP x 100), every name is data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fusion_det.compare.report.charts import grid
from fusion_det.compare.report.svg import DASHES, WIDTH, Scale, colour, drawing, element, group, label, line, marker, path, tick_text
from fusion_det.compare.report.words import shortened


@dataclass(frozen=True)
class Line:
    """The course of one arm: the mean over its seeds, and the lowest and highest seed."""

    name: str
    place: int
    points: tuple[tuple[float, float, float, float], ...]
    """x, mean, lowest, highest."""


def line_chart(lines: Sequence[Line], label_text: str, x_unit: str, y_unit: str, *, zero: bool = False) -> Markup:
    """Means with bands from the lowest to the highest seed."""
    left, top, bottom = 40, 10, 214
    across = Scale.around([x for one in lines for x, *_ in one.points], left + 8, WIDTH - 10, room=0.02)
    up = Scale.around([*(v for one in lines for _, *values in one.points for v in values), *([0.0] if zero else [])], bottom, top)
    parts = grid(across, up, left, top, bottom, x_unit, y_unit)
    if zero:
        parts.append(line(left, up(0), WIDTH - 4, up(0), "zero"))
    for one in lines:
        low = [(across(x), up(lowest)) for x, _, lowest, _ in one.points]
        high = [(across(x), up(highest)) for x, _, _, highest in reversed(one.points)]
        parts.append(group(colour(one.place), element("path", d=path([*low, *high]) + "Z", class_="band")))
    for one in lines:
        middle = [(across(x), up(mean)) for x, mean, *_ in one.points]
        every = max(1, len(middle) // 8)
        signs = [marker(one.place, x, y, 3.4) for x, y in middle[::-every]]
        dash = DASHES[one.place % len(DASHES)] or None
        course = element("path", d=path(middle), class_="course", stroke_dasharray=dash)
        parts.append(group(colour(one.place), course, *signs, hint=one.name))
    return drawing(bottom + 34, label_text, *parts)


@dataclass(frozen=True)
class Bar:
    """One arm in one group of bars."""

    name: str
    place: int
    value: float
    low: float
    high: float


def bar_chart(groups: Sequence[tuple[str, Sequence[Bar]]], label_text: str, unit: str) -> Markup:
    """Groups of bars from 0 with intervals; the value stands at the right."""
    head, row, gap, left, right = 18, 17, 8, 112, WIDTH - 48
    ends = [end for _, bars in groups for bar in bars for end in (bar.value, bar.low, bar.high)]
    limits = Scale.around([0.0, *ends], 0, 1, room=0.0)
    scale = Scale(min(limits.low, 0.0), limits.high, left, right)
    bottom = sum(head + row * len(bars) + gap for _, bars in groups)
    parts = [line(scale(tick), 0, scale(tick), bottom, "grid") for tick in scale.ticks(4)]
    parts += [label(scale(tick), bottom + 14, tick_text(tick), "tick", anchor="middle") for tick in scale.ticks(4)]
    heads: list[Markup] = []
    y = 0.0
    for title, bars in groups:
        heads.append(label(4, y + 13, title, "name halo"))
        y += head
        for bar in bars:
            parts.append(_bar(bar, scale, y, row))
            parts.append(label(left - 18, y + 12, shortened(bar.name, 12), "tick", anchor="end", hint=bar.name))
            parts.append(group(colour(bar.place), marker(bar.place, left - 9, y + 8.5, 3.6)))
            parts.append(label(WIDTH - 4, y + 12, f"{bar.value:.1f}", "tick", anchor="end"))
            y += row
        y += gap
    parts.append(line(scale(0), 0, scale(0), bottom, "zero"))
    return drawing(bottom + 34, label_text, *parts, *heads, label((left + right) / 2, bottom + 29, unit, "soft", anchor="middle"))


def _bar(bar: Bar, scale: Scale, y: float, row: float) -> Markup:
    start, end = sorted((scale(0), scale(bar.value)))
    box = element("rect", x=start, y=y + 3, width=max(end - start, 0.5), height=row - 5.0, rx=1.5, class_="bar")
    middle = y + row / 2 + 0.5
    whisker = line(scale(bar.low), middle, scale(bar.high), middle, "whisker")
    hint = f"{bar.name}: {bar.value:.2f} ({bar.low:.2f} to {bar.high:.2f})"
    return group(colour(bar.place), box, whisker, hint=hint)
