"""The pyramid that a search found."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt

from fusion_det.necks.plan import HasStride, Node, Plan


def nasfpn(levels: Sequence[HasStride], *, repeats: PositiveInt = 7) -> Plan:
    """NAS-FPN (Ghiasi et al., CVPR 2019, arXiv 1904.07392, Fig. 6, the 7-merge cell of 256 channels), ``repeats`` times.

    Sums are the chosen operator, global-pooling attention is the neck's part ``gp``. Two of the four ``gp`` nodes have no block. Needs
    exactly five levels (usually C3 to C5 and two from ``neck.deeper``).
    """
    if len(levels) != 5:
        names = [level.name for level in levels]
        raise ValueError(f"topology nasfpn: expected 5 levels (the backbone's and those of neck.deeper), got {len(levels)}: {names}")
    nodes: list[Node] = []
    inputs = [level.name for level in levels]
    for cell in range(1, repeats + 1):
        inputs = _cell(levels, inputs, nodes, "" if cell == repeats else f"_{cell}")
    return Plan.build(levels, nodes, inputs)


def _cell(levels: Sequence[HasStride], inputs: list[str], nodes: list[Node], suffix: str) -> list[str]:
    """Append one cell to ``nodes``; the names of its outputs, fine to coarse. Level 0 is the paper's P3, level 4 its P7."""
    letter = "Q" if suffix else "P"

    def add(index: int, sources: tuple[str, str], name: str = "", *, gp: bool = False, block: bool = True) -> str:
        name = (name or f"{letter}{levels[index].name[1:]}") + suffix
        nodes.append(Node(name, levels[index].stride, sources, block=block, operator="gp" if gp else ""))
        return name

    in3, in4, in5, in6, in7 = inputs
    a = add(1, (in4, in6), f"A{levels[1].name[1:]}", gp=True)
    b = add(1, (in4, a), f"B{levels[1].name[1:]}")
    out3 = add(0, (in3, b))
    out4 = add(1, (b, out3))
    c = add(2, (out3, out4), f"G{levels[2].name[1:]}", gp=True, block=False)
    out5 = add(2, (in5, c))
    d = add(4, (b, out5), f"G{levels[4].name[1:]}", gp=True, block=False)
    out7 = add(4, (in7, d))
    out6 = add(3, (out5, out7), gp=True)
    return [out3, out4, out5, out6, out7]
