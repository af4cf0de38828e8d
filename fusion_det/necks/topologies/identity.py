"""No fusion at all: each level goes its own way."""

from __future__ import annotations

from collections.abc import Sequence

from fusion_det.necks.plan import HasStride, Node, Plan


def identity(levels: Sequence[HasStride]) -> Plan:
    """Every level is projected and passed through its own block: the control arm of a comparison."""
    nodes = [Node(f"P{level.name[1:]}", level.stride, (level.name,), block=True) for level in levels]
    return Plan.build(levels, nodes, [node.name for node in nodes])
