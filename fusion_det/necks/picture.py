"""A plan as a picture in SVG. No torch, no drawing library."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from fusion_det.necks.bands import Band, make_bands

if TYPE_CHECKING:
    from fusion_det.necks.plan import Node, Plan

BOX_HEIGHT, GUTTER, MARGIN, TRACK = 46, 34, 48, 8
ROW_GAP, BAND_GAP, LEGEND = 22, 40, 30
COLOURS = {"up": "#c0392b", "down": "#2471a3", "": "#566573"}
FILLS = {"entry": "#eaf2f8", "fusion": "#fef9e7", "single": "#ffffff", "handed over": "#f4f6f6"}
_HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
    'font-family="sans-serif" font-size="12">\n'
    '<rect width="100%" height="100%" fill="#ffffff"/>\n'
    "<defs>{tips}</defs>"
)
_TIP = '<marker id="tip-{name}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{colour}"/></marker>'  # noqa: E501


def as_svg(plan: Plan, *, operator: str = "fuse", block: str = "block") -> str:
    """A row per stride (fine at the bottom), a column per step of the longest path; long plans go on in a band below.

    Each box names its map, its operator (or resampler) and its block; ``operator`` and ``block`` label the chosen ones. Outputs have a
    thick frame, maps handed over from the band above a dashed one. Red arrows enlarge, blue ones reduce.
    """
    return _Picture(plan, operator, block).draw()


class _Picture:
    def __init__(self, plan: Plan, operator: str, block: str) -> None:
        self.plan, self.strides, self.nodes = plan, plan.strides, {node.name: node for node in plan.nodes}
        self.labels = {
            name: [name, *(_notes(self.nodes[name], operator, block) if name in self.nodes else ["entry"])] for name in self.strides
        }
        self.box_width = 16 + max(max(len(label[0]) * 8, *(len(note) * 6 for note in label[1:]), 56) for label in self.labels.values())

    def draw(self) -> str:
        parts: list[str] = []
        bands, y = make_bands(self.plan), MARGIN / 2
        for band in bands:
            y = self._band(band, y, parts) + BAND_GAP
        width = 2 * MARGIN + max(self._x(1 + max(band.columns.values())) for band in bands) - GUTTER
        width = max(width, 520)
        parts.append(_legend(MARGIN, y - BAND_GAP / 2 + 8))
        tips = "".join(_TIP.format(name=name or "same", colour=colour) for name, colour in COLOURS.items())
        return "\n".join([_HEAD.format(width=round(width), height=round(y + LEGEND - BAND_GAP / 2), tips=tips), *parts, "</svg>"]) + "\n"

    def _x(self, column: int) -> float:
        return column * (self.box_width + GUTTER)

    def _band(self, band: Band, top: float, parts: list[str]) -> float:
        """Append the band that starts at ``top``; its lower end."""
        tops, y = {}, top
        for row in band.ordered_rows:
            y += TRACK * band.tracks_beside(row, above=True)
            tops[row] = y
            parts.append(f'<text x="10" y="{y + BOX_HEIGHT / 2 + 4:g}" fill="#808b96">/{row[0]}</text>')
            y += BOX_HEIGHT + TRACK * band.tracks_beside(row, above=False) + ROW_GAP
        corners = {name: (MARGIN + self._x(column), tops[band.rows[name]]) for name, column in band.columns.items()}
        parts += [self._edge(band, corners, source, reader) for source, reader in band.edges]
        parts += [self._box(name, corner, handed_over=name in band.handed_over) for name, corner in corners.items()]
        return y - ROW_GAP

    def _edge(self, band: Band, corners: dict[str, tuple[float, float]], source: str, reader: str) -> str:
        (x1, y1), (x2, y2) = corners[source], corners[reader]
        direction = "up" if self.strides[source] > self.strides[reader] else "down" if self.strides[source] < self.strides[reader] else ""
        x1, y1, half = x1 + self.box_width, y1 + BOX_HEIGHT / 2, GUTTER / 2
        # Arrows from above enter a box in its upper part, those from below in its lower part, neighbours in the middle.
        shift = 0 if y1 == y2 + BOX_HEIGHT / 2 else -BOX_HEIGHT / 4 if y1 < y2 else BOX_HEIGHT / 4
        if (source, reader) not in band.tracks:
            end = y2 + BOX_HEIGHT / 2 + shift
            path = f"M{x1:g} {y1:g} C{x1 + half:g} {y1:g} {x2 - half:g} {end:g} {x2:g} {end:g}"
        else:
            above, track = band.tracks[source, reader]
            lane = y2 - TRACK * (track + 0.75) if above else y2 + BOX_HEIGHT + TRACK * (track + 0.75)
            end = y2 + BOX_HEIGHT * (0.25 if above else 0.75)
            path = f"M{x1:g} {y1:g} C{x1 + half:g} {y1:g} {x1 + 4:g} {lane:g} {x1 + GUTTER:g} {lane:g} H{x2 - GUTTER:g} "
            path += f"C{x2 - half:g} {lane:g} {x2 - half:g} {end:g} {x2:g} {end:g}"
        colour, tip = COLOURS[direction], direction or "same"
        return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.4" marker-end="url(#tip-{tip})"/>'

    def _box(self, name: str, corner: tuple[float, float], *, handed_over: bool) -> str:
        x, y = corner
        node, middle = self.nodes.get(name), x + self.box_width / 2
        kind = "handed over" if handed_over else "entry" if node is None else "fusion" if len(node.inputs) > 1 else "single"
        frame = f'stroke="#34495e" stroke-width="{2.4 if name in self.plan.outputs and not handed_over else 1}"'
        frame += ' stroke-dasharray="4 3"' if handed_over else ""
        lines = self.labels[name][:1] if handed_over else self.labels[name]
        first = y + BOX_HEIGHT / 2 + 4 - 6 * (len(lines) - 1)
        text = f'<text x="{middle:g}" y="{first:g}" text-anchor="middle" font-weight="bold">{escape(name)}</text>'
        for i, line in enumerate(lines[1:], start=1):
            text += f'<text x="{middle:g}" y="{first + 13 * i:g}" text-anchor="middle" font-size="10" fill="#566573">{escape(line)}</text>'
        return f'<rect x="{x:g}" y="{y:g}" width="{self.box_width}" height="{BOX_HEIGHT}" rx="6" fill="{FILLS[kind]}" {frame}/>{text}'


def _notes(node: Node, operator: str, block: str) -> list[str]:
    """What stands below a node's name: operator or resampler, and block."""
    first = (node.operator or operator) if len(node.inputs) > 1 else node.resample
    second = block if node.block is True else node.block or ""
    return [note for note in (first, second) if note]


def _legend(x: float, y: float) -> str:
    words = [("#c0392b", "→ to a finer stride"), ("#2471a3", "→ to a coarser stride"), ("#566573", "→ same stride")]
    words += [("#34495e", "thick frame: output"), ("#b7950b", "yellow: fusion")]
    spans = "".join(f'<tspan fill="{colour}">{text}</tspan><tspan>   </tspan>' for colour, text in words)
    return f'<text x="{x:g}" y="{y:g}" font-size="10" xml:space="preserve">{spans}</text>'
