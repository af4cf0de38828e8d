"""The executor: walks a plan with the chosen entry, resampling, operator and block."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import PositiveInt
from torch import Tensor, nn

from fusion_det.necks.plan import Node, Plan
from fusion_det.structures import LevelSpec, check_levels

Factory = Callable[..., Any]


class FusionNeck(nn.Module):
    """Backbone levels in, pyramid levels of one width out; every axis of the neck is a part given from outside.

    ``operator(channels, num_inputs)``, ``block(channels)``, ``topology(levels) -> Plan``, ``entry(in_channels, channels)``,
    ``resample(channels, from_stride, to_stride)`` and ``extra(in_channels, channels)`` are factories: each node gets its own
    instance, so no weights are shared by accident.
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
    ) -> None:
        super().__init__()
        levels = check_levels(levels, owner="neck")
        self.plan: Plan = topology(levels)
        read = {source for node in self.plan.nodes for source in node.inputs} | set(self.plan.outputs)
        self.names = [level.name for level in levels]
        self.entries = nn.ModuleDict({level.name: entry(level.channels, channels) for level in levels if level.name in read})
        strides = self.plan.strides
        self.resamplers = nn.ModuleDict(
            {
                f"{source}_to_{node.name}": resample(channels, strides[source], node.stride)
                for node in self.plan.nodes
                for source in node.inputs
                if strides[source] != node.stride
            }
        )
        self.operators = nn.ModuleDict({n.name: operator(channels, len(n.inputs)) for n in self.plan.nodes if len(n.inputs) > 1})
        self.blocks = nn.ModuleDict({node.name: block(channels) for node in self.plan.nodes if node.block})
        self.extra = extra(levels[-1].channels, channels)
        self.finest = levels[0]
        self.levels = self._output_levels(channels)

    def _output_levels(self, channels: int) -> tuple[LevelSpec, ...]:
        strides = self.plan.strides
        levels = [LevelSpec(name, channels, strides[name]) for name in self.plan.outputs]
        for _ in range(self.extra.count):
            stride = levels[-1].stride * 2
            levels.append(LevelSpec(f"P{int(math.log2(stride))}", channels, stride))
        return check_levels(levels, owner="neck")

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Backbone maps [B, C_i, H_i, W_i], fine to coarse -> maps [B, C, H_j, W_j] in the order of ``levels``."""
        sizes = {spec: (f.shape[-2], f.shape[-1]) for spec, f in zip(self.names, features, strict=True)}
        by_stride = {self.plan.strides[name]: size for name, size in sizes.items()}
        maps = {name: self.entries[name](f) for name, f in zip(self.names, features, strict=True) if name in self.entries}
        for node in self.plan.nodes:
            maps[node.name] = self._run(node, maps, self._size(node.stride, by_stride))
        outputs = [maps[name] for name in self.plan.outputs]
        return outputs + self.extra(features[-1], outputs[-1])

    def _run(self, node: Node, maps: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
        inputs = []
        for source in node.inputs:
            key = f"{source}_to_{node.name}"
            inputs.append(self.resamplers[key](maps[source], size) if key in self.resamplers else maps[source])
        x = self.operators[node.name](inputs) if len(inputs) > 1 else inputs[0]
        return self.blocks[node.name](x) if node.block else x

    def _size(self, stride: int, by_stride: dict[int, tuple[int, int]]) -> tuple[int, int]:
        """Run-time size of the maps at ``stride``: the backbone's where it has that stride, else derived from its finest map."""
        if stride not in by_stride:
            height, width = by_stride[self.finest.stride]
            ratio = self.finest.stride / stride
            by_stride[stride] = (math.ceil(height * ratio), math.ceil(width * ratio))
        return by_stride[stride]

    def probe(self) -> dict[str, dict[str, Tensor]]:
        """What each node's operator decided in the last forward pass: node name -> named tensors."""
        return {name: found for name, op in self.operators.items() if (found := op.probe())}  # type: ignore[operator]
