"""A neck's wiring as plain data: which maps meet, at which stride, in which order. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fusion_det.necks import draw, picture

NECK_WIDTH = "neck"
"""``Node.width`` of maps that have the neck's ``channels`` even where the level has another width inside the neck."""
CONTEXT = "context"
"""``Node.block`` of the node that holds the neck's context part; a plan without one has its deepest entry enriched."""


class HasStride(Protocol):
    """What a topology needs to know of an incoming level (:class:`fusion_det.structures.LevelSpec` has it)."""

    @property
    def name(self) -> str: ...

    @property
    def stride(self) -> int: ...


@dataclass(frozen=True)
class Node:
    """One step: bring ``inputs`` to ``stride``, fuse them if there are several, then apply the block if asked to.

    The first input is the node's own level: it decides what "own" means for operators that treat it differently, and to which
    width the others are brought. ``block=True`` is the block that ``block=`` chooses. A text names a part of the neck's own
    (its key ``parts``) in place of the chosen ``block``, ``operator`` or ``resample``. ``width``: the name of an entry whose width
    the map takes, ``"neck"``, or a number of channels; empty: the width of the level with this stride.
    """

    name: str
    stride: int
    inputs: tuple[str, ...]
    block: bool | str = False
    operator: str = ""
    resample: str = ""
    width: str | int = ""

    @property
    def parts(self) -> set[str]:
        """Names of the neck's own parts that this node uses."""
        named = {self.operator, self.resample, self.block if isinstance(self.block, str) else ""}
        return named - {"", CONTEXT}


@dataclass(frozen=True)
class Plan:
    """Nodes in the order of execution, from named entries (the projected backbone levels) to named outputs (fine to coarse)."""

    entries: tuple[str, ...]
    entry_strides: tuple[int, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    @classmethod
    def build(cls, levels: Sequence[HasStride], nodes: Iterable[Node], outputs: Iterable[str]) -> Plan:
        """A validated plan over ``levels`` (fine to coarse)."""
        plan = cls(tuple(level.name for level in levels), tuple(level.stride for level in levels), tuple(nodes), tuple(outputs))
        plan.validate()
        return plan

    @property
    def strides(self) -> dict[str, int]:
        """Stride of every map by name, entries included."""
        return dict(zip(self.entries, self.entry_strides, strict=True)) | {node.name: node.stride for node in self.nodes}

    @property
    def parts(self) -> set[str]:
        """Names of the parts that a neck must give besides operator, block and resampling."""
        return set().union(*(node.parts for node in self.nodes))

    def validate(self) -> None:
        """Raise ``ValueError`` for a name used twice, an input not yet computed (so also for cycles), a stride that no
        power of two reaches, outputs that are unknown or not fine to coarse, and nodes that nobody uses."""
        known = dict(zip(self.entries, self.entry_strides, strict=True))
        later = {node.name for node in self.nodes}
        for node in self.nodes:
            _check_node(node, known, later)
            known[node.name] = node.stride
        unknown = [name for name in self.outputs if name not in known]
        if unknown or not self.outputs:
            raise ValueError(f"plan: outputs {unknown or 'none'} are not made by any node; known: {sorted(known)}")
        strides = [known[name] for name in self.outputs]
        if strides != sorted(strides) or len(set(self.outputs)) != len(self.outputs):
            raise ValueError(f"plan: outputs must go from fine to coarse, none twice, got {list(self.outputs)} at strides {strides}")
        used = {source for node in self.nodes for source in node.inputs} | set(self.outputs)
        idle = [node.name for node in self.nodes if node.name not in used]
        if idle:
            raise ValueError(f"plan: nodes {idle} are computed but never used")

    def draw(self) -> str:
        """The plan as text, one node a line, e.g. ``M4 /16 <- fuse(C4, up M5)``."""
        return draw.as_text(self)

    def draw_svg(self, *, operator: str = "fuse", block: str = "block") -> str:
        """The plan as a picture in SVG: a row per stride, a column per step; ``operator`` and ``block`` label the chosen ones."""
        return picture.as_svg(self, operator=operator, block=block)


def output_widths(topology: str, levels: Sequence[HasStride], widths: Sequence[int] | None) -> list[str | int]:
    """``Node.width`` for the outputs of a topology that takes ``widths``, one number per level, fine to coarse; ``None``: as inside."""
    if widths is None:
        return [""] * len(levels)
    if len(widths) != len(levels):
        raise ValueError(f"topology {topology}: expected one width per level {[level.name for level in levels]}, got {list(widths)}")
    return list(widths)


def _check_node(node: Node, known: dict[str, int], later: set[str]) -> None:
    if not node.name or "." in node.name:
        raise ValueError(f"plan: {node.name!r} is no name for a node: expected letters, digits and _")
    if not isinstance(node.stride, int) or node.stride < 1:
        raise ValueError(f"plan: node {node.name!r} has stride {node.stride!r}, expected a whole number above 0")
    if node.name in known:
        raise ValueError(f"plan: node {node.name!r} is defined twice")
    if not node.inputs:
        raise ValueError(f"plan: node {node.name!r} has no inputs")
    for source in node.inputs:
        if source not in known:
            why = "which is made only after it (a cycle, or nodes out of order)" if source in later else "which no node makes"
            raise ValueError(f"plan: node {node.name!r} reads {source!r}, {why}; made before it: {sorted(known)}")
        _check_ratio(node, source, known[source])
    if len(node.inputs) != len(set(node.inputs)):
        raise ValueError(f"plan: node {node.name!r} reads a map twice: {list(node.inputs)}")
    if node.operator and len(node.inputs) < 2:
        raise ValueError(f"plan: node {node.name!r} names operator {node.operator!r} but has one input, so nothing is fused")
    if isinstance(node.width, str) and node.width not in known and node.width not in ("", NECK_WIDTH):
        raise ValueError(f"plan: node {node.name!r} takes the width of {node.width!r}; known: {sorted(known)} and {NECK_WIDTH!r}")


def _check_ratio(node: Node, source: str, stride: int) -> None:
    ratio = max(stride, node.stride) / min(stride, node.stride)
    if ratio != int(ratio) or int(ratio) & (int(ratio) - 1):
        raise ValueError(
            f"plan: node {node.name!r} at stride {node.stride} cannot read {source!r} at stride {stride}: not a power of two apart; "
            f"resampling reaches {', '.join(str(int(stride * 2**i)) for i in range(-3, 4) if stride * 2**i >= 1)}"
        )
