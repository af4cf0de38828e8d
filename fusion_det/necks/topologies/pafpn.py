"""The top-down pyramid with a second, bottom-up path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fusion_det.necks.plan import HasStride, Node, Plan
from fusion_det.necks.topologies.fpn import merge_down


def pafpn(levels: Sequence[HasStride], *, form: Literal["sums", "paper"] = "sums") -> Plan:
    """Path Aggregation Network (Liu et al., CVPR 2018, arXiv 1803.01534, Fig. 1): FPN's maps ``F`` are merged again, fine to coarse.

    ``paper``: each output, after its block, goes on to the next level (Eq. ``N_{i+1} = conv(F_{i+1} + down(N_i))``), and FPN's own
    smoothing is the neck's part ``smooth``. ``sums``: the sums ``S`` before the block go on, and all convolutions are the block: the
    form of mmdetection, whose weights are the widely used ones.
    """
    merged, sources = merge_down(levels)
    smooth: bool | str = "smooth" if form == "paper" else True
    nodes = [*merged]
    names = [f"P{levels[0].name[1:]}", *(f"F{level.name[1:]}" for level in levels[1:])]
    nodes += [Node(name, level.stride, (source,), block=smooth) for name, level, source in zip(names, levels, sources, strict=True)]
    below, outputs = names[0], [names[0]]
    for level, own in zip(levels[1:], names[1:], strict=True):
        output = f"P{level.name[1:]}"
        if form == "paper":
            nodes.append(Node(output, level.stride, (own, below), block=True))
            below = output
        else:
            nodes.append(Node(f"S{level.name[1:]}", level.stride, (own, below)))
            below = nodes[-1].name
            nodes.append(Node(output, level.stride, (below,), block=True))
        outputs.append(output)
    return Plan.build(levels, nodes, outputs)
