"""A plan as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusion_det.necks.plan import Node, Plan


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


def _block(node: Node, chosen: str, joint: str) -> str:
    return joint + (chosen if node.block is True else str(node.block)) if node.block else ""


def _prefix(source: int, node: Node) -> str:
    """``up `` or ``down ``, with the resampler's name where the node names one: ``down[pool] ``."""
    direction = _direction(source, node.stride)
    return f"{direction[:-1]}[{node.resample}] " if direction and node.resample else direction


def _direction(source: int, target: int) -> str:
    return "up " if source > target else "down " if source < target else ""
