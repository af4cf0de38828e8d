"""All levels at one stride."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt

from fusion_det.necks.plan import CONTEXT, NECK_WIDTH, HasStride, Node, Plan


def gather(levels: Sequence[HasStride], *, stride: PositiveInt | None = None, spread: bool = False, context: bool = False) -> Plan:
    """Every level is brought to ``stride`` (``None``: the finest level's) and all meet in one node.

    HyperNet (arXiv 1604.00600) and the dense form of ION (arXiv 1512.04143) predict from that one map. With ``spread`` the map is resized
    to the strides of all levels, each with a block of its own (HRFPN, arXiv 1904.04514). With ``context`` the enriched deepest level is
    a further input beside the plain one (ION) and does not replace it.
    """
    stride = levels[0].stride if stride is None else stride
    nodes: list[Node] = []
    # The own level is the nearest one; of two equally near ones the finer.
    nearest = sorted(levels, key=lambda level: max(level.stride, stride) / min(level.stride, stride))[0]
    inputs = [nearest.name, *(level.name for level in levels if level is not nearest)]
    if context:
        nodes.append(Node(f"X{levels[-1].name[1:]}", levels[-1].stride, (levels[-1].name,), block=CONTEXT))
        inputs.append(nodes[-1].name)
    if spread:
        nodes.append(Node("G", stride, tuple(inputs), width=NECK_WIDTH))
        outputs = [Node(f"P{level.name[1:]}", level.stride, ("G",), block=True, width=NECK_WIDTH) for level in levels]
    else:
        outputs = [Node(f"P{stride.bit_length() - 1}", stride, tuple(inputs), block=True, width=NECK_WIDTH)]
    return Plan.build(levels, [*nodes, *outputs], [node.name for node in outputs])
