"""One level more at a time."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt

from fusion_det.necks.plan import NECK_WIDTH, HasStride, Node, Plan, output_widths


def progressive(levels: Sequence[HasStride], *, widths: list[PositiveInt] | None = None) -> Plan:
    """Asymptotic feature pyramid (AFPN: Yang et al., SMC 2023, arXiv 2306.15988, Fig. 2).

    The two finest levels are joined densely, then the next coarser one joins them, and so on; a block follows each node. The part
    ``project`` takes the last maps to ``widths`` channels, fine to coarse, or to the neck's width.
    """
    if len(levels) < 2:
        raise ValueError(f"topology progressive: expected at least 2 levels, got {[level.name for level in levels]}")
    nodes: list[Node] = []
    current = [level.name for level in levels]
    for step in range(1, len(levels)):
        joined = []
        for i, level in enumerate(levels[: step + 1]):
            others = [name for j, name in enumerate(current[: step + 1]) if j != i]
            nodes.append(Node(f"A{level.name[1:]}_{step}", level.stride, (current[i], *others), block=True))
            joined.append(nodes[-1].name)
        current[: step + 1] = joined
    outputs = [
        Node(f"P{level.name[1:]}", level.stride, (name,), block="project", width=width or NECK_WIDTH)
        for level, name, width in zip(levels, current, output_widths("progressive", levels, widths), strict=True)
    ]
    return Plan.build(levels, [*nodes, *outputs], [node.name for node in outputs])
