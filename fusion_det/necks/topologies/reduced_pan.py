"""Down and up again, with the reduced maps used twice."""

from __future__ import annotations

from collections.abc import Sequence

from fusion_det.necks.plan import NECK_WIDTH, HasStride, Node, Plan


def reduced_pan(levels: Sequence[HasStride], *, project: bool = False) -> Plan:
    """The path aggregation of YOLOX (arXiv 2107.08430) and of RT-DETR's hybrid encoder (arXiv 2304.08069, Fig. 4, CCFM).

    On the way down each map first goes through the part ``reduce`` (a 1x1 convolution to the width of the next finer level) and then
    both enters the finer node and waits, as ``T``, for the way up. Each node has a block. ``project``: the part ``project`` takes each
    last map ``N`` to the neck's width (mmdetection's YOLOX; in the authors' code this is the head's first layer).
    """
    if len(levels) < 2:
        raise ValueError(f"topology reduced_pan: expected at least 2 levels, got {[level.name for level in levels]}")
    letter = "N" if project else "P"
    nodes: list[Node] = []
    above = levels[-1].name
    reduced: list[str] = []
    for coarse, fine in zip(reversed(levels[1:]), reversed(levels[:-1]), strict=True):
        digit = fine.name[1:]
        nodes.append(Node(f"T{coarse.name[1:]}", coarse.stride, (above,), block="reduce", width=fine.name))
        reduced.insert(0, nodes[-1].name)
        above = f"{letter}{digit}" if fine is levels[0] else f"F{digit}"
        nodes.append(Node(above, fine.stride, (fine.name, nodes[-1].name), block=True))
    outputs = [above]
    for level, own in zip(levels[1:], reduced, strict=True):
        nodes.append(Node(f"{letter}{level.name[1:]}", level.stride, (own, outputs[-1]), block=True))
        outputs.append(nodes[-1].name)
    if project:
        nodes += [
            Node(f"P{level.name[1:]}", level.stride, (source,), block="project", width=NECK_WIDTH)
            for level, source in zip(levels, outputs, strict=True)
        ]
        outputs = [f"P{level.name[1:]}" for level in levels]
    return Plan.build(levels, nodes, outputs)
