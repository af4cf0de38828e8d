"""A plan as text and as a picture. No torch, no drawing library."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from fusion_det.necks.plan import Node, Plan

BOX_WIDTH, BOX_HEIGHT = 96, 40
COLUMN, MARGIN = 132, 48
STACKED, GAP = BOX_HEIGHT + 8, 36
COLOURS = {"up": "#c0392b", "down": "#2471a3", "": "#566573"}


def as_text(plan: Plan) -> str:
    """One node a line, e.g. ``M4 /16 <- fuse(C4, up M5)``; parts that a node names itself stand in place of ``fuse`` and ``block``."""
    strides = plan.strides
    lines = ["  ".join(f"{name} /{strides[name]}" for name in plan.entries) + "  (entries)"]
    for node in plan.nodes:
        sources = ", ".join(_prefix(strides[source], node) + source for source in node.inputs)
        call = f"{node.operator or 'fuse'}({sources})" if len(node.inputs) > 1 else sources
        lines.append(f"{node.name} /{node.stride} <- {call}{_block(node, 'block', ' + ')}")
    lines.append("  ".join(f"{name} /{strides[name]}" for name in plan.outputs) + "  (outputs)")
    return "\n".join(lines)


def as_svg(plan: Plan, *, operator: str = "fuse", block: str = "block") -> str:
    """A row per stride (fine at the bottom), a column per step of the longest path; red arrows enlarge, blue ones reduce."""
    strides = plan.strides
    places = _places(plan)
    rows = sorted(set(strides.values()), reverse=True)
    columns = max(column for column, _ in places.values()) + 1
    row_height = STACKED * (1 + max(depth for _, depth in places.values())) + GAP
    width, height = 2 * MARGIN + (columns - 1) * COLUMN + BOX_WIDTH, 2 * MARGIN + len(rows) * row_height - GAP

    def corner(name: str) -> tuple[float, float]:
        column, depth = places[name]
        return MARGIN + column * COLUMN, MARGIN + rows.index(strides[name]) * row_height + depth * STACKED

    parts = [_HEAD.format(width=width, height=height)]
    for row, stride in enumerate(rows):
        parts.append(f'<text x="12" y="{MARGIN + row * row_height + BOX_HEIGHT / 2 + 4}" fill="#808b96">/{stride}</text>')
    for node in plan.nodes:
        parts += [_arrow(corner(source), corner(node.name), _direction(strides[source], node.stride)) for source in node.inputs]
    for name in plan.entries:
        parts.append(_box(corner(name), name, "entry", "#eaf2f8", name in plan.outputs))
    for node in plan.nodes:
        label = (node.operator or operator) if len(node.inputs) > 1 else node.resample
        note = label + _block(node, block, " + " if label else "")
        parts.append(_box(corner(node.name), node.name, note, "#fef9e7" if len(node.inputs) > 1 else "#ffffff", node.name in plan.outputs))
    return "\n".join([*parts, "</svg>"]) + "\n"


_HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
    'font-family="sans-serif" font-size="12">\n'
    '<rect width="100%" height="100%" fill="#ffffff"/>\n'
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 L8 4 L0 8 z" fill="#34495e"/></marker></defs>'
)


def _places(plan: Plan) -> dict[str, tuple[int, int]]:
    """Column and depth of each map: right of all that it reads; maps that share a cell lie below each other."""
    columns = dict.fromkeys(plan.entries, 0)
    for node in plan.nodes:
        columns[node.name] = 1 + max(columns[source] for source in node.inputs)
    strides = plan.strides
    taken: dict[tuple[int, int], int] = {}
    places: dict[str, tuple[int, int]] = {}
    for name, column in columns.items():
        cell = (column, strides[name])
        taken[cell] = taken.get(cell, -1) + 1
        places[name] = (column, taken[cell])
    return places


def _arrow(source: tuple[float, float], target: tuple[float, float], direction: str) -> str:
    (x1, y1), (x2, y2) = source, target
    start, end, middle = (x1 + BOX_WIDTH, y1 + BOX_HEIGHT / 2), (x2, y2 + BOX_HEIGHT / 2), (x1 + BOX_WIDTH + x2) / 2
    path = f"M{start[0]} {start[1]} C{middle} {start[1]} {middle} {end[1]} {end[0]} {end[1]}"
    return f'<path d="{path}" fill="none" stroke="{COLOURS[direction.strip()]}" stroke-width="1.4" marker-end="url(#tip)"/>'


def _box(corner: tuple[float, float], name: str, note: str, fill: str, is_output: bool) -> str:
    x, y = corner
    frame = f'fill="{fill}" stroke="#34495e" stroke-width="{2.4 if is_output else 1}"'
    box = f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" {frame}/>'
    title = f'<text x="{x + BOX_WIDTH / 2}" y="{y + 17}" text-anchor="middle" font-weight="bold">{escape(name)}</text>'
    small = f'<text x="{x + BOX_WIDTH / 2}" y="{y + 32}" text-anchor="middle" font-size="10" fill="#566573">{escape(note)}</text>'
    return box + title + small


def _block(node: Node, chosen: str, joint: str) -> str:
    return joint + (chosen if node.block is True else str(node.block)) if node.block else ""


def _prefix(source: int, node: Node) -> str:
    """``up `` or ``down ``, with the resampler's name where the node names one: ``down[pool] ``."""
    direction = _direction(source, node.stride)
    return f"{direction[:-1]}[{node.resample}] " if direction and node.resample else direction


def _direction(source: int, target: int) -> str:
    return "up " if source > target else "down " if source < target else ""
