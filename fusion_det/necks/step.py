"""The modules of one node of a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from fusion_det.layers import init_conv
from fusion_det.necks.plan import CONTEXT, NECK_WIDTH, Node
from fusion_det.necks.resample.project import Project
from fusion_det.necks.widths import Widths

Factory = Callable[..., Any]


class Step:
    """Builds what ``node`` needs: a resampler per edge that changes stride or width, its operator and its block.

    Widths: the other inputs are brought to the width of the first; the block brings the fused map to the node's width, and where
    there is no block a 1x1 convolution does if need be. ``width`` is the width of the node's map.
    """

    def __init__(
        self,
        node: Node,
        strides: Mapping[str, int],
        widths: Mapping[str, int],
        inside: Widths,
        operator: Factory,
        block: Factory,
        resample: Factory,
        parts: Mapping[str, Factory],
        context: Factory | None,
    ) -> None:
        self.width = _width(node, widths, inside)
        own = widths[node.inputs[0]]
        resample = parts[node.resample] if node.resample else resample
        self.resamplers: dict[str, nn.Module] = {}
        for source in node.inputs:
            ends = strides[source], node.stride
            if ends[0] != ends[1]:
                made = resample(widths[source], *ends) if widths[source] == own else resample(widths[source], *ends, own)
            elif widths[source] != own:
                made = Project(widths[source], own)
            else:
                continue
            if getattr(made, "needs_own", False) and source == node.inputs[0]:
                raise ValueError(f"neck: node {node.name!r} resamples its only or own input {source!r}, so there is no map to align it to")
            self.resamplers[f"{source}_to_{node.name}"] = made
        self.operator: dict[str, nn.Module] = {}
        fused = own
        if len(node.inputs) > 1:
            made = (parts[node.operator] if node.operator else operator)(own, len(node.inputs))
            fused = getattr(made, "out_channels", own)
            self.operator[node.name] = made
        self.block = self._make_block(node, fused, block, parts, context)

    def _make_block(
        self, node: Node, fused: int, block: Factory, parts: Mapping[str, Factory], context: Factory | None
    ) -> dict[str, nn.Module]:
        if node.block == CONTEXT:
            if context is None:
                raise ValueError(f"neck: node {node.name!r} holds the context, but neck.context is null")
            self.width = fused
            return {node.name: context(fused)}
        if node.block:
            chosen = parts[node.block] if isinstance(node.block, str) else block
            return {node.name: chosen(self.width) if fused == self.width else chosen(fused, self.width)}
        return {node.name: _fit(fused, self.width)} if fused != self.width else {}


def _width(node: Node, widths: Mapping[str, int], inside: Widths) -> int:
    if isinstance(node.width, int):
        return node.width
    return inside.channels if node.width == NECK_WIDTH else widths[node.width] if node.width else inside.at(node.stride)


def _fit(in_channels: int, channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, channels, kernel_size=1)
    init_conv(conv)
    return conv
