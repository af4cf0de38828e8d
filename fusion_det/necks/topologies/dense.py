"""Every level with every other."""

from __future__ import annotations

from collections.abc import Sequence

from fusion_det.necks.plan import HasStride, Node, Plan


def dense(levels: Sequence[HasStride]) -> Plan:
    """Each output joins all levels, brought to its size (ASFF: Liu et al., 2019, arXiv 1911.09516, Fig. 2)."""
    nodes = []
    for level in levels:
        others = [other.name for other in levels if other is not level]
        nodes.append(Node(f"P{level.name[1:]}", level.stride, (level.name, *others), block=True))
    return Plan.build(levels, nodes, [node.name for node in nodes])
