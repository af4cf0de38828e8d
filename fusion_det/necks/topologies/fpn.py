"""The top-down pyramid."""

from __future__ import annotations

from collections.abc import Sequence

from fusion_det.necks.plan import HasStride, Node, Plan


def fpn(levels: Sequence[HasStride], *, smooth_deepest: bool = True) -> Plan:
    """Feature Pyramid Network (Lin et al., CVPR 2017, arXiv 1612.03144, Fig. 3): each level meets the merged map above it.

    What goes further down is the merged map itself (``M``); the block makes the output (``P``) of it. Without ``smooth_deepest`` the
    deepest level is its entry as it is (FaPN).
    """
    merged, sources = merge_down(levels)
    outputs = [
        Node(f"P{level.name[1:]}", level.stride, (source,), block=smooth_deepest or level is not levels[-1])
        for level, source in zip(levels, sources, strict=True)
    ]
    return Plan.build(levels, [*merged, *outputs], [node.name for node in outputs])


def merge_down(levels: Sequence[HasStride], operator: str = "") -> tuple[list[Node], list[str]]:
    """The merged maps ``M``, and the name of each level's merged map from fine to coarse (the deepest is its entry)."""
    merged: list[Node] = []
    above = levels[-1].name
    for level in reversed(levels[:-1]):
        node = Node(f"M{level.name[1:]}", level.stride, (level.name, above), operator=operator)
        merged.append(node)
        above = node.name
    return merged, [node.name for node in reversed(merged)] + [levels[-1].name]
