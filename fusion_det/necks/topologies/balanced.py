"""Gather, refine, scatter."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import NonNegativeInt, PositiveInt

from fusion_det.necks.plan import HasStride, Node, Plan
from fusion_det.necks.topologies.fpn import merge_down


def balanced(
    levels: Sequence[HasStride], *, stride: PositiveInt | None = None, coarser: NonNegativeInt = 0, unmerged: NonNegativeInt = 0
) -> Plan:
    """Balanced feature pyramid of Libra R-CNN (Pang et al., CVPR 2019, arXiv 1904.02701, Fig. 4) on top of FPN.

    FPN's outputs ``F`` are brought to ``stride`` (``None``: that of the middle level) and joined by the chosen operator (the paper's
    mean) in ``G``, which the part ``refine`` refines and which is then added (part ``residual``) to each ``F`` at its own size. FPN
    itself adds by the part ``merge``. ``coarser``: further levels of FPN (part ``coarser`` resamples; 1 in the paper) that take part.
    ``unmerged``: how many of the deepest levels, those of ``neck.deeper``, take part as they are (RetinaNet's P6 and P7).
    """
    if unmerged >= len(levels):
        raise ValueError(f"topology balanced: unmerged={unmerged} leaves none of the {len(levels)} levels to FPN")
    pyramid, rest = levels[: len(levels) - unmerged], levels[len(levels) - unmerged :]
    merged, sources = merge_down(pyramid, operator="merge")
    names, strides = [f"F{level.name[1:]}" for level in pyramid], [level.stride for level in pyramid]
    nodes = merged + [Node(name, at, (source,), block=True) for name, at, source in zip(names, strides, sources, strict=True)]
    names, strides = names + [level.name for level in rest], strides + [level.stride for level in rest]
    for _ in range(coarser):
        strides.append(2 * strides[-1])
        nodes.append(Node(f"F{strides[-1].bit_length() - 1}", strides[-1], (names[-1],), resample="coarser"))
        names.append(nodes[-1].name)
    stride = strides[len(strides) // 2] if stride is None else stride
    if stride not in strides:
        raise ValueError(f"topology balanced: stride {stride} is not among the pyramid's strides {strides}")
    own = names[strides.index(stride)]
    nodes.append(Node("G", stride, (own, *(name for name in names if name != own)), block="refine"))
    outputs = [Node(f"P{name[1:]}", at, (name, "G"), operator="residual") for name, at in zip(names, strides, strict=True)]
    return Plan.build(levels, [*nodes, *outputs], [node.name for node in outputs])
