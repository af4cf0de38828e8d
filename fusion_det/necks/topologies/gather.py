"""All levels at one stride."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from fusion_det.necks.plan import CONTEXT, NECK_WIDTH, HasStride, Node, Plan


def gather(
    levels: Sequence[HasStride],
    *,
    stride: PositiveInt | None = None,
    spread: bool = False,
    coarser: NonNegativeInt = 0,
    context: bool = False,
    embed: Literal["none", "before", "after"] = "none",
) -> Plan:
    """Every level is brought to ``stride`` (``None``: the finest level's) and all meet in one node.

    HyperNet (arXiv 1604.00600) and the dense form of ION (arXiv 1512.04143) predict from that one map. With ``spread`` the map is resized
    to the strides of all levels and of ``coarser`` further ones, each with a block of its own (HRFPN, arXiv 1904.04514). With ``context``
    the enriched deepest level is a further input beside the plain one (ION) and does not replace it. ``embed``: every input goes
    through the part ``embed`` before or after its resizing (ION normalises before, HyperNet convolves and normalises after).
    """
    if coarser and not spread:
        raise ValueError(f"topology gather: coarser={coarser} levels need spread=true")
    stride = levels[0].stride if stride is None else stride
    nodes: list[Node] = []
    # The own level is the nearest one; of two equally near ones the finer.
    nearest = sorted(levels, key=lambda level: max(level.stride, stride) / min(level.stride, stride))[0]
    inputs = {level.name: level.stride for level in [nearest, *(level for level in levels if level is not nearest)]}
    if context:
        nodes.append(Node(f"X{levels[-1].name[1:]}", levels[-1].stride, (levels[-1].name,), block=CONTEXT))
        inputs[nodes[-1].name] = levels[-1].stride
    if embed != "none":
        names = {f"E{name.removeprefix('C')}": name for name in inputs}
        nodes += [Node(new, inputs[old] if embed == "before" else stride, (old,), block="embed") for new, old in names.items()]
        inputs = {node.name: node.stride for node in nodes[-len(names) :]}
    if spread:
        nodes.append(Node("G", stride, tuple(inputs), width=NECK_WIDTH))
        further = [levels[-1].stride << i for i in range(1, coarser + 1)]
        targets = [(level.name[1:], level.stride) for level in levels] + [(str(at.bit_length() - 1), at) for at in further]
        outputs = [Node(f"P{digit}", at, ("G",), block=True, width=NECK_WIDTH) for digit, at in targets]
    else:
        outputs = [Node(f"P{stride.bit_length() - 1}", stride, tuple(inputs), block=True, width=NECK_WIDTH)]
    return Plan.build(levels, [*nodes, *outputs], [node.name for node in outputs])
