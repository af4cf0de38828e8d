"""Every level with every other."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt

from fusion_det.necks.plan import HasStride, Node, Plan, output_widths


def dense(levels: Sequence[HasStride], *, widths: list[PositiveInt] | None = None) -> Plan:
    """Each output joins all levels, brought to its size (ASFF: Liu et al., 2019, arXiv 1911.09516, Fig. 2).

    ``widths``: channels that the block takes the outputs to, fine to coarse; ``None``: as inside.
    """
    nodes = []
    for level, width in zip(levels, output_widths("dense", levels, widths), strict=True):
        others = [other.name for other in levels if other is not level]
        nodes.append(Node(f"P{level.name[1:]}", level.stride, (level.name, *others), block=True, width=width))
    return Plan.build(levels, nodes, [node.name for node in nodes])
