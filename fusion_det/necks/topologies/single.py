"""One backbone level only, as detectors had it before pyramids."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt

from fusion_det.necks.plan import HasStride, Node, Plan


def single(levels: Sequence[HasStride], *, stride: PositiveInt | None = None, spread: bool = False) -> Plan:
    """Use the level of ``stride`` (``None``: the deepest) and nothing else.

    With ``spread`` that one level is resized to the strides of all levels, so that a head with several levels can be compared on it;
    without it the neck has a single output.
    """
    by_stride = {level.stride: level for level in levels}
    chosen = by_stride.get(levels[-1].stride if stride is None else stride)
    if chosen is None:
        raise ValueError(f"topology single: stride {stride} is not among the backbone's strides {sorted(by_stride)}")
    targets = levels if spread else [chosen]
    nodes = [Node(f"P{level.name[1:]}", level.stride, (chosen.name,), block=True) for level in targets]
    return Plan.build(levels, nodes, [node.name for node in nodes])
