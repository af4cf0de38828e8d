"""The bidirectional pyramid, repeated."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt

from fusion_det.necks.plan import HasStride, Node, Plan


def bifpn(levels: Sequence[HasStride], *, repeats: PositiveInt = 3) -> Plan:
    """BiFPN (Tan, Pang and Le, CVPR 2020, arXiv 1911.09070, Fig. 2d and Eq. 1): down to ``T``, up to ``B``, ``repeats`` times.

    Levels in the middle also read their own input on the way up; the deepest and the finest have one node only. The outputs of the last
    cell are ``P``.
    """
    if len(levels) < 2:
        raise ValueError(f"topology bifpn: expected at least 2 levels, got {[level.name for level in levels]}")
    nodes: list[Node] = []
    inputs = [level.name for level in levels]
    for cell in range(1, repeats + 1):
        inputs = _cell(levels, inputs, nodes, cell, last=cell == repeats)
    return Plan.build(levels, nodes, inputs)


def _cell(levels: Sequence[HasStride], inputs: list[str], nodes: list[Node], cell: int, *, last: bool) -> list[str]:
    """Append one cell to ``nodes``; the names of its outputs, fine to coarse."""

    def output(index: int) -> str:
        return f"P{levels[index].name[1:]}" if last else f"B{levels[index].name[1:]}_{cell}"

    down = {len(levels) - 1: inputs[-1]}
    for i in range(len(levels) - 2, -1, -1):
        name = output(0) if i == 0 else f"T{levels[i].name[1:]}_{cell}"
        nodes.append(Node(name, levels[i].stride, (inputs[i], down[i + 1]), block=True))
        down[i] = name
    for i in range(1, len(levels)):
        own = (inputs[i], down[i]) if i < len(levels) - 1 else (inputs[i],)
        nodes.append(Node(output(i), levels[i].stride, (*own, output(i - 1)), block=True))
    return [output(i) for i in range(len(levels))]
