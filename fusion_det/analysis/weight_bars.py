"""Fusion weights as a picture: one bar per node."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fusion_det.analysis.canvas import ALARM, FAINT, INK, LINE, Canvas, Colour, text_width
from fusion_det.analysis.fusion_report import FusionReport, SiteReport, describe_inputs
from fusion_det.visualize import PALETTE

_COLUMN, _BETWEEN, _MARGIN, _BAR, _GAP, _SWATCH = 560, 40, 14, 14, 14, 10
_ROWS, _COLUMNS = 16, 3
"""Nodes in a column and columns in a picture, at most."""
_EXPLANATION = "bar: shares of the inputs, own first; number: mean weight (where it is the largest)"


class _Entry(NamedTuple):
    """One input in the legend under a bar: where its swatch stands and what is written beside it."""

    x: float
    line: int
    text: str
    swatch: Colour
    ink: Colour


def weight_bars(report: FusionReport) -> Tensor | None:
    """A stacked bar per node that weighs its inputs, uint8 [3, H, W]; ``None`` if there is no such node.

    Colours go by the place among the inputs and can be told apart with common colour blindness. At most 48 nodes are drawn; how many more
    there are is written below, as are the nodes that decide nothing.
    """
    sites = [site for site in report if site.summary is not None]
    if not sites:
        return None
    drawn = sites[: _ROWS * _COLUMNS]
    per_column = -(-len(drawn) // -(-len(drawn) // _ROWS))
    columns = [drawn[start : start + per_column] for start in range(0, len(drawn), per_column)]
    top = _MARGIN + 2 * LINE + _GAP
    bottom = top + max(sum(_height(site) for site in column) for column in columns)
    footer = _footer(report, len(sites) - len(drawn))
    canvas = Canvas(2 * _MARGIN + len(columns) * (_COLUMN + _BETWEEN) - _BETWEEN, bottom + (LINE if footer else 0) + _MARGIN // 2)
    canvas.text(_MARGIN, _MARGIN, f"fusion weights, means over {report.pictures} {'picture' if report.pictures == 1 else 'pictures'}")
    canvas.text(_MARGIN, _MARGIN + LINE, _EXPLANATION, FAINT)
    for number, column in enumerate(columns):
        y = top
        for site in column:
            _draw_node(canvas, site, _MARGIN + number * (_COLUMN + _BETWEEN), y)
            y += _height(site)
    canvas.text(_MARGIN, bottom, footer, FAINT, room=canvas.sheet.width - 2 * _MARGIN)
    return canvas.picture()


def _draw_node(canvas: Canvas, site: SiteReport, x: int, y: int) -> None:
    summary = site.summary
    assert summary is not None
    entropy = f"entropy {summary.entropy:.2f}"
    end = canvas.text(x, y, site.name, room=_COLUMN / 2)
    canvas.text(end + 8, y, f"stride {site.stride}, {site.operator}", FAINT, room=x + _COLUMN - text_width(entropy) - end - 16)
    canvas.text_right(x + _COLUMN, y, entropy, FAINT)
    left = float(x)
    for number, share in enumerate(summary.shares.tolist()):
        if share * _COLUMN >= 1:
            canvas.box(left, y + LINE, share * _COLUMN, _BAR, _colour(number))
        left += share * _COLUMN
    canvas.frame(x, y + LINE, _COLUMN, _BAR, FAINT)
    for entry in _legend(site):
        at = y + LINE + _BAR + 3 + entry.line * LINE
        canvas.box(x + entry.x, at + 4, _SWATCH, _SWATCH, entry.swatch)
        canvas.text(x + entry.x + _SWATCH + 4, at, entry.text, entry.ink, room=_COLUMN - _SWATCH - 4)


def _legend(site: SiteReport) -> list[_Entry]:
    """The inputs from left to right, in as many lines as they need."""
    entries: list[_Entry] = []
    x, line = 0.0, 0
    for number, (name, text) in enumerate(zip(site.inputs, describe_inputs(site), strict=True)):
        width = _SWATCH + 4 + text_width(text)
        if entries and x + width > _COLUMN:
            x, line = 0.0, line + 1
        entries.append(_Entry(x, line, text, _colour(number), ALARM if name in site.dead else INK))
        x += width + 18
    return entries


def _height(site: SiteReport) -> int:
    return LINE + _BAR + 3 + LINE * (1 + _legend(site)[-1].line) + _GAP


def _colour(number: int) -> Colour:
    return PALETTE[number % len(PALETTE)]


def _footer(report: FusionReport, hidden: int) -> str:
    """What the picture does not show."""
    silent = [site for site in report if site.summary is None]
    operators = ", ".join(sorted({site.operator for site in silent}))
    parts = [f"{hidden} more nodes are not drawn"] if hidden else []
    if silent:
        parts.append(f"{len(silent)} more {'node decides' if len(silent) == 1 else 'nodes decide'} nothing ({operators})")
    return "; ".join(parts)
