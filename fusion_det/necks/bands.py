"""Where the maps of a plan lie in its picture: columns in the order of execution, cut into bands that fit a page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusion_det.necks.plan import Plan

SHORTEST, LONGEST = 6, 13
"""Columns of a band; its end is where the fewest maps are handed over."""

Row = tuple[int, int]
"""Stride, and a number from 0 where several maps of that stride share a column."""


@dataclass
class Band:
    """Some neighbouring columns of the picture: maps by place, the edges between them, and the tracks that long edges take."""

    columns: dict[str, int] = field(default_factory=dict)
    """Column of each map; 0 holds the entries, or the maps handed over from the bands before."""
    rows: dict[str, Row] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    """(source, reader)."""
    handed_over: set[str] = field(default_factory=set)
    tracks: dict[tuple[str, str], tuple[bool, int]] = field(default_factory=dict)
    """Edges that do not go to the next column: whether they run above their reader's row, and which track there, 0 next to it."""

    @property
    def ordered_rows(self) -> list[Row]:
        """Coarse strides first."""
        return sorted(set(self.rows.values()), key=lambda row: (-row[0], row[1]))

    def tracks_beside(self, row: Row, *, above: bool) -> int:
        """How many tracks ``row`` needs on that side."""
        return max((1 + n for (_, reader), (side, n) in self.tracks.items() if self.rows[reader] == row and side is above), default=0)


def make_bands(plan: Plan) -> list[Band]:
    """The bands of ``plan`` from first to last."""
    edges = [(source, node.name) for node in plan.nodes for source in node.inputs]
    columns = _columns(plan, edges)
    bands, start = [], 0
    for end in _ends(columns, edges):
        bands.append(_band(plan.strides, columns, edges, start, end))
        start = end
    return bands


def _columns(plan: Plan, edges: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Column of each map: right of all that it reads; a map with one input stands right before its first reader."""
    columns = dict.fromkeys(plan.entries, 0)
    for node in plan.nodes:
        columns[node.name] = 1 + max(columns[source] for source in node.inputs)
    readers: dict[str, list[str]] = {}
    for source, reader in edges:
        readers.setdefault(source, []).append(reader)
    for node in reversed(plan.nodes):
        if len(node.inputs) == 1 and node.name in readers:
            columns[node.name] = min(columns[reader] for reader in readers[node.name]) - 1
    return columns


def _ends(columns: dict[str, int], edges: Iterable[tuple[str, str]]) -> list[int]:
    """The first column after each band."""
    edges, total, ends = list(edges), max(columns.values()) + 1, [0]
    while total - ends[-1] > LONGEST:

        def handed_over(end: int) -> tuple[int, int]:
            return len({source for source, reader in edges if columns[source] < end <= columns[reader]}), -end

        ends.append(min(range(ends[-1] + SHORTEST, ends[-1] + LONGEST + 1), key=handed_over))
    return [*ends[1:], total]


def _band(strides: dict[str, int], columns: dict[str, int], edges: list[tuple[str, str]], start: int, end: int) -> Band:
    band = Band(edges=[edge for edge in edges if start <= columns[edge[1]] < end])
    band.handed_over = {source for source, _ in band.edges if columns[source] < start}
    shift = start - 1 if start else 0
    shown = [name for name in columns if name in band.handed_over or start <= columns[name] < end]
    taken: dict[tuple[int, int], int] = {}
    for name in shown:
        column = 0 if name in band.handed_over else columns[name] - shift
        cell = column, strides[name]
        band.columns[name], band.rows[name] = column, (strides[name], taken.get(cell, 0))
        taken[cell] = taken.get(cell, 0) + 1
    _lay_tracks(band)
    return band


def _lay_tracks(band: Band) -> None:
    """Give each edge that passes over a column a track of its own beside its reader's row; short ones lie next to it."""
    busy: dict[tuple[Row, bool, int], list[range]] = {}
    order = {row: i for i, row in enumerate(band.ordered_rows)}
    passing = [edge for edge in band.edges if band.columns[edge[1]] - band.columns[edge[0]] > 1]
    for source, reader in sorted(passing, key=lambda edge: (band.columns[edge[1]] - band.columns[edge[0]], edge)):
        above = order[band.rows[source]] <= order[band.rows[reader]]
        row, span, track = band.rows[reader], range(band.columns[source], band.columns[reader]), 0
        if not _is_in_the_way(band, source, reader):
            continue
        while any(span.start < other.stop and other.start < span.stop for other in busy.get((row, above, track), [])):
            track += 1
        busy.setdefault((row, above, track), []).append(span)
        band.tracks[source, reader] = above, track


def _is_in_the_way(band: Band, source: str, reader: str) -> bool:
    """Whether a straight line along the reader's row would cross another map, or the edge comes from another row."""
    row, between = band.rows[reader], range(band.columns[source] + 1, band.columns[reader])
    return band.rows[source] != row or any(band.rows[name] == row and band.columns[name] in between for name in band.rows)
