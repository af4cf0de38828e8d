"""The executor: walks a plan with the chosen entry, context, resampling, operator and block."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from fusion_det.config.types import UnitInterval
from fusion_det.necks.conv import set_batch_norm
from fusion_det.necks.plan import CONTEXT, Node, Plan
from fusion_det.necks.sources import Sources
from fusion_det.necks.step import Step
from fusion_det.necks.widths import Widths
from fusion_det.structures import FusionSite, LevelSpec, check_levels

Factory = Callable[..., Any]
Part = Callable[[Tensor], Tensor]


class FusionNeck(nn.Module):
    """Backbone levels in, pyramid levels out; every axis of the neck is a part given from outside.

    ``operator(channels, num_inputs)``, ``block(channels[, out_channels])``, ``topology(levels) -> Plan``,
    ``entry(in_channels, channels)``, ``context(channels)``, ``resample(channels, from_stride, to_stride[, out_channels])`` and
    ``extra(in_channels, channels)`` are factories: each node, edge and level gets its own instance, so no weights are shared by
    accident; ``out_channels`` is given only where the width changes. ``parts``: operators, blocks and resamplers that the
    topology's nodes name. ``widths``: channels inside the neck, one number, one per level, or a share of the backbone's (0.125, 1.0);
    ``None``: ``channels`` everywhere. ``norm_eps``, ``norm_momentum``: constants of every BatchNorm; ``None``: torch's.
    ``entry_per_edge``: each edge from a backbone level gets an entry of its own. ``special_entries``: other entries for the
    ``finest`` or ``deepest`` level. ``deeper``: levels made before the fusion, ``extra``: after it.
    """

    def __init__(
        self,
        levels: Sequence[LevelSpec],
        operator: Factory,
        block: Factory,
        *,
        channels: PositiveInt,
        topology: Factory,
        entry: Factory,
        resample: Factory,
        extra: Factory,
        context: Factory | None = None,
        deeper: Factory | None = None,
        parts: dict[str, Factory] | None = None,
        widths: PositiveInt | list[PositiveInt] | UnitInterval | None = None,
        special_entries: dict[str, Factory] | None = None,
        entry_per_edge: bool = False,
        norm_eps: PositiveFloat | None = None,
        norm_momentum: UnitInterval | None = None,
    ) -> None:
        super().__init__()
        levels = check_levels(levels, owner="neck")
        self.names = [level.name for level in levels]
        self.finest = levels[0]
        inside = Widths(levels, channels, widths)
        self.deeper = deeper(levels[-1].channels, inside.at(levels[-1].stride)) if deeper else None
        entries = [*levels, *_continue(levels[-1], "C", _extra_widths(self.deeper, inside.at(levels[-1].stride)))]
        self.plan: Plan = _check_plan(topology(entries))
        parts = _check_parts(parts or {}, self.plan)
        places_context = any(node.block == CONTEXT for node in self.plan.nodes)
        sources = Sources(levels, self.plan, entry, special_entries or {}, inside, per_edge=entry_per_edge, deeper=self.deeper)
        self.entries, self.edge_entries = sources.shared, sources.per_edge
        self.context = _make_context(context, sources, inside, levels[-1], entry_per_edge) if not places_context else None
        self.resamplers, self.operators, self.blocks = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        known = sources.widths
        for node in self.plan.nodes:
            step = Step(node, self.plan.strides, known, inside, operator, block, resample, parts, context)
            self.resamplers.update(step.resamplers)
            self.operators.update(step.operator)
            self.blocks.update(step.block)
            known[node.name] = step.width
        self.early = self._early_nodes()
        self.extra = extra(levels[-1].channels, known[self.plan.outputs[-1]])
        _check_extra(self.extra, sources, levels[-1].name, known[self.plan.outputs[-1]])
        set_batch_norm(self, norm_eps, norm_momentum)
        self.levels = self._output_levels(known)
        unpadded = getattr(self.extra, "unpadded", 0)
        self.approximate = [level.name for level in self.levels[len(self.levels) - unpadded :]]
        """Levels whose maps are smaller than their stride says."""

    def _early_nodes(self) -> set[str]:
        """Nodes that sum 1x1 convolutions, of a map that is enlarged for one of them: that one comes first, at fewer positions."""
        linear = {name for name, operator in self.operators.items() if hasattr(operator, "linear_parts")}
        early = set()
        for node in self.plan.nodes:
            resamplers = [self.resamplers[key] for name in node.inputs if (key := _edge(name, node)) in self.resamplers]
            aligned = any(getattr(resampler, "needs_own", False) for resampler in resamplers)  # to the own map as it is
            if node.name in linear and not aligned and any(getattr(resampler, "commutes", False) for resampler in resamplers):
                early.add(node.name)
        return early

    def _output_levels(self, widths: dict[str, int]) -> tuple[LevelSpec, ...]:
        strides = self.plan.strides
        levels = [LevelSpec(name, widths[name], strides[name]) for name in self.plan.outputs]
        return check_levels([*levels, *_continue(levels[-1], "P", _extra_widths(self.extra, levels[-1].channels))], owner="neck")

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Backbone maps [B, C_i, H_i, W_i], fine to coarse -> maps [B, C_j, H_j, W_j] in the order of ``levels``."""
        raw = dict(zip(self.names, features, strict=True))
        if self.context is not None and self.edge_entries:
            raw[self.names[-1]] = self.context(raw[self.names[-1]])
        maps = {name: entry(raw[name]) for name, entry in self.entries.items()}
        if self.deeper is not None:
            maps.update(zip(self.plan.entries[len(raw) :], self.deeper(features[-1], maps.get(self.names[-1])), strict=True))
        if self.context is not None and not self.edge_entries:
            maps[self.names[-1]] = self.context(maps[self.names[-1]])
        by_stride = {self.plan.strides[name]: (f.shape[-2], f.shape[-1]) for name, f in [*maps.items(), *raw.items()]}
        for node in self.plan.nodes:
            maps[node.name] = self._run(node, raw, maps, self._size(node.stride, by_stride))
        outputs = [maps[name] for name in self.plan.outputs]
        reads_entry = getattr(self.extra, "reads_entry", False)
        return outputs + self.extra(features[-1], maps[self.names[-1]] if reads_entry else outputs[-1])

    def _run(self, node: Node, raw: dict[str, Tensor], maps: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        inputs: list[Tensor] = []
        parts = self._linear_parts(node)
        for name, part in zip(node.inputs, parts, strict=True):
            key = _edge(name, node)
            x = self.edge_entries[key](raw[name]) if key in self.edge_entries else maps[name]
            inputs.append(self._resize(key, x, size, inputs, part))
        if node.name in self.early:
            x = sum(inputs[1:], inputs[0])
        else:
            x = self.operators[node.name](inputs) if len(inputs) > 1 else inputs[0]
        return self.blocks[node.name](x) if node.name in self.blocks else x

    def _linear_parts(self, node: Node) -> Sequence[Part | None]:
        """What is applied to each input of an early node, whose sum is its map."""
        return self.operators[node.name].linear_parts() if node.name in self.early else [None] * len(node.inputs)  # type: ignore[operator]

    def _resize(self, key: str, x: Tensor, size: tuple[int, int], before: Sequence[Tensor], part: Part | None) -> Tensor:
        if key not in self.resamplers:
            return part(x) if part else x
        resampler = self.resamplers[key]
        if part and getattr(resampler, "commutes", False):
            return resampler(part(x), size)
        x = resampler(x, size, before[0]) if getattr(resampler, "needs_own", False) else resampler(x, size)
        return part(x) if part else x

    def _size(self, stride: int, by_stride: dict[int, tuple[int, int]]) -> tuple[int, int]:
        """Run-time size of the maps at ``stride``: the backbone's where it has that stride, else derived from its finest map."""
        if stride not in by_stride:
            height, width = by_stride[self.finest.stride]
            ratio = self.finest.stride / stride
            by_stride[stride] = (math.ceil(height * ratio), math.ceil(width * ratio))
        return by_stride[stride]

    def fusion_sites(self) -> list[FusionSite]:
        """The nodes that fuse, in the order of execution."""
        return [
            FusionSite(node.name, _level_name("P", node.stride), node.stride, node.inputs, self.operators[node.name])
            for node in self.plan.nodes
            if node.name in self.operators
        ]


def _edge(source: str, node: Node) -> str:
    return f"{source}_to_{node.name}"


def _level_name(letter: str, stride: int) -> str:
    return f"{letter}{int(math.log2(stride))}"


def _continue(last: LevelSpec, letter: str, widths: Sequence[int]) -> list[LevelSpec]:
    """Specifications of further levels, each of twice the stride of the one before."""
    strides = [last.stride << i for i in range(1, len(widths) + 1)]
    return [LevelSpec(_level_name(letter, stride), width, stride) for stride, width in zip(strides, widths, strict=True)]


def _extra_widths(extra: Any, channels: int) -> Sequence[int]:
    return [] if extra is None else getattr(extra, "widths", [channels] * extra.count)


def _check_plan(plan: Any) -> Plan:
    if not isinstance(plan, Plan):
        raise ValueError(f"neck.topology: expected a function from levels to a Plan, it gave {plan!r:.80}")
    plan.validate()
    return plan


def _check_parts(parts: dict[str, Factory], plan: Plan) -> dict[str, Factory]:
    missing = sorted(plan.parts - parts.keys())
    if missing:
        raise ValueError(f"neck: the topology names the parts {missing}, but neck.parts holds {sorted(parts) or 'none'}")
    return parts


def _check_extra(extra: Any, sources: Sources, deepest: str, width: int) -> None:
    if getattr(extra, "reads_entry", False) and (deepest not in sources.shared or sources.widths[deepest] != width):
        got = f"{sources.widths[deepest]} channels" if deepest in sources.shared else "none that all nodes share"
        raise ValueError(f"neck.extra: expected an entry of {deepest} with {width} channels to start from, got {got}")


def _make_context(context: Factory | None, sources: Sources, inside: Widths, deepest: LevelSpec, per_edge: bool) -> Any:
    """The context of the deepest level: on its entry, or on the backbone's map where every edge has an entry of its own."""
    if context is None:
        return None
    if per_edge:
        return context(deepest.channels)
    if deepest.name not in sources.shared:
        raise ValueError(f"neck: the context enriches {deepest.name}, but the topology reads only {sorted(sources.shared)}")
    return context(sources.widths[deepest.name])
