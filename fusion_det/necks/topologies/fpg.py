"""The grid of parallel pathways."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt

from fusion_det.necks.plan import HasStride, Node, Plan


def fpg(levels: Sequence[HasStride], *, pathways: PositiveInt = 9, triangular: bool = True) -> Plan:
    """Feature Pyramid Grids (Chen et al., 2020, arXiv 2004.03580, Fig. 2): ``pathways`` bottom-up columns beside each other.

    A node joins up to four maps: its level in the column before (part ``lateral``), the finer level of its own column (the resampler),
    the coarser level of the column before (part ``across`` after enlarging) and its level in the first column (part ``skip``). With
    ``triangular`` finer levels join later: level i of n starts at column n - i. Nodes have no block; the last column has.
    """
    first = [level.name for level in levels]
    column = first
    nodes: list[Node] = []
    for pathway in range(1, pathways + 1):
        start = len(levels) if triangular else 1
        column = _pathway(levels, first, column, nodes, pathway, start)
    outputs = [Node(f"P{level.name[1:]}", level.stride, (source,), block=True) for level, source in zip(levels, column, strict=True)]
    return Plan.build(levels, [*nodes, *outputs], [node.name for node in outputs])


def _pathway(levels: Sequence[HasStride], first: list[str], before: list[str], nodes: list[Node], pathway: int, start: int) -> list[str]:
    """Append one column to ``nodes``; the names of its maps, fine to coarse."""
    column: list[str] = []
    for i, level in enumerate(levels):
        if pathway < start - i:
            column.append(before[i])
            continue
        digit = level.name[1:]
        edges = [Node(f"L{digit}_{pathway}", level.stride, (before[i],), block="lateral")]
        if i > 0:
            edges.append(Node(f"U{digit}_{pathway}", level.stride, (column[i - 1],)))
        if i < len(levels) - 1:
            edges.append(Node(f"D{digit}_{pathway}", level.stride, (before[i + 1],), block="across"))
        edges.append(Node(f"K{digit}_{pathway}", level.stride, (first[i],), block="skip"))
        nodes += edges
        nodes.append(Node(f"X{digit}_{pathway}", level.stride, tuple(edge.name for edge in edges)))
        column.append(nodes[-1].name)
    return column
