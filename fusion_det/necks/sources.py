"""How the backbone's levels come in: one entry per level, or one per edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from fusion_det.necks.plan import Plan
from fusion_det.necks.widths import Widths
from fusion_det.structures import LevelSpec

PLACES = ("finest", "deepest")


class Sources:
    """Builds the entries that a plan reads, and tells the width of every map before the first node.

    ``shared``: level name -> entry. ``per_edge``: ``{level}_to_{node}`` -> entry, if every edge is to have its own. Levels that
    nobody reads get none, so that no parameter is left without a gradient.
    """

    def __init__(
        self,
        levels: Sequence[LevelSpec],
        plan: Plan,
        entry: Callable[..., Any],
        special: dict[str, Callable[..., Any]],
        inside: Widths,
        *,
        per_edge: bool,
        deeper: Any,
    ) -> None:
        if set(special) - set(PLACES):
            raise ValueError(f"neck.special_entries: expected keys out of {list(PLACES)}, got {sorted(special)}")
        factories = {level.name: entry for level in levels}
        factories[levels[0].name] = special.get("finest", entry)
        factories[levels[-1].name] = special.get("deepest", factories[levels[-1].name])
        by_name = {level.name: level for level in levels}
        edges = [(source, node.name) for node in plan.nodes for source in node.inputs if source in by_name]
        read = set(plan.outputs) | ({source for source, _ in edges} if not per_edge else set())
        if deeper is not None and deeper.count and getattr(deeper, "reads_output", False):
            read.add(levels[-1].name)
        self.shared, self.per_edge = nn.ModuleDict(), nn.ModuleDict()
        self.widths: dict[str, int] = {}

        def make(name: str) -> Any:
            level = by_name[name]
            made = factories[name](level.channels, inside.at(level.stride))
            self.widths[name] = getattr(made, "out_channels", inside.at(level.stride))
            return made

        for level in levels:
            if level.name in read:
                self.shared[level.name] = make(level.name)
        if per_edge:
            for source, node in edges:
                self.per_edge[f"{source}_to_{node}"] = make(source)
        if getattr(deeper, "reads_output", False) and self.widths[levels[-1].name] != inside.at(levels[-1].stride):
            raise ValueError(
                f"neck.deeper: expected an entry of {inside.at(levels[-1].stride)} channels to start from, "
                f"got {self.widths[levels[-1].name]} of {levels[-1].name}"
            )
        made = getattr(deeper, "widths", None) or [inside.at(levels[-1].stride)] * getattr(deeper, "count", 0)
        self.widths.update(zip(plan.entries[len(levels) :], made, strict=True))
