"""A neck's wiring as plain data: which maps meet, at which stride, in which order. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


class HasStride(Protocol):
    """What a topology needs to know of an incoming level (:class:`fusion_det.structures.LevelSpec` has it)."""

    @property
    def name(self) -> str: ...

    @property
    def stride(self) -> int: ...


@dataclass(frozen=True)
class Node:
    """One step: bring ``inputs`` to ``stride``, fuse them if there are several, then apply the block if asked to.

    The first input is the node's own level: it decides what "own" means for operators that treat it differently.
    """

    name: str
    stride: int
    inputs: tuple[str, ...]
    block: bool = False


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

    def validate(self) -> None:
        """Raise ``ValueError`` for a name used twice, an input not yet computed (so also for cycles), a stride that no
        power of two reaches, outputs that are unknown or not fine to coarse, and nodes that nobody uses."""
        known = dict(zip(self.entries, self.entry_strides, strict=True))
        for node in self.nodes:
            if node.name in known:
                raise ValueError(f"plan: node {node.name!r} is defined twice")
            if not node.inputs:
                raise ValueError(f"plan: node {node.name!r} has no inputs")
            for source in node.inputs:
                if source not in known:
                    raise ValueError(f"plan: node {node.name!r} reads {source!r}, which no earlier node makes; known: {sorted(known)}")
                _check_ratio(node, source, known[source])
            known[node.name] = node.stride
        unknown = [name for name in self.outputs if name not in known]
        if unknown or not self.outputs:
            raise ValueError(f"plan: outputs {unknown or 'none'} are not made by any node; known: {sorted(known)}")
        strides = [known[name] for name in self.outputs]
        if strides != sorted(set(strides)):
            raise ValueError(f"plan: outputs must go from fine to coarse, got strides {strides}")
        used = {source for node in self.nodes for source in node.inputs} | set(self.outputs)
        idle = [node.name for node in self.nodes if node.name not in used]
        if idle:
            raise ValueError(f"plan: nodes {idle} are computed but never used")

    def draw(self) -> str:
        """The plan as text, one node a line, e.g. ``M4 /16 <- fuse(C4, up M5)``."""
        strides = self.strides
        lines = ["  ".join(f"{name} /{strides[name]}" for name in self.entries) + "  (entries)"]
        for node in self.nodes:
            sources = ", ".join(_direction(strides[source], node.stride) + source for source in node.inputs)
            call = f"fuse({sources})" if len(node.inputs) > 1 else sources
            lines.append(f"{node.name} /{node.stride} <- {call}{' + block' if node.block else ''}")
        lines.append("  ".join(f"{name} /{strides[name]}" for name in self.outputs) + "  (outputs)")
        return "\n".join(lines)


def _direction(source: int, target: int) -> str:
    return "up " if source > target else "down " if source < target else ""


def _check_ratio(node: Node, source: str, stride: int) -> None:
    ratio = max(stride, node.stride) / min(stride, node.stride)
    if ratio != int(ratio) or int(ratio) & (int(ratio) - 1):
        raise ValueError(
            f"plan: node {node.name!r} at stride {node.stride} cannot read {source!r} at stride {stride}: not a power of two apart"
        )
