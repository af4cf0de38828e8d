"""Maps from behind the first block of a stride, beside those from its end, of timm's MobileNets and EfficientNets.

timm's feature networks give one map per stride, from its last stage. torchvision's detectors on MobileNet take another one of the same
stride: from behind the block that halves the map.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor

STEM = -1


def first_stages(net: Any, strides: Collection[int]) -> frozenset[int]:
    """Places in ``net.blocks`` of the stages that begin these strides; a ``ValueError`` if their first blocks have no maps to give."""
    info = net.feature_info.info
    if not hasattr(net, "blocks") or any(_stage(level["module"]) == STEM for level in info[1:]):
        raise ValueError("its stages are no sequences of blocks")
    starts, before = {}, STEM
    for level in info:
        stride, end = level["reduction"], _stage(level["module"])
        starts[stride] = before + 1
        if stride in strides and end in (STEM, before + 1) and (end == STEM or len(net.blocks[end]) == 1):
            raise ValueError(f"nothing follows the first block of stride {stride}")
        before = end
    return frozenset(starts[stride] for stride in strides)


def run_stages(net: Any, images: Tensor, starts: Collection[int]) -> list[Tensor]:
    """As ``net(images)``, with the map behind the first block of each stage in ``starts`` too, before that of the stride's end."""
    ends = {_stage(module) for module in net.feature_info.module_name()}
    x = images
    for name, layer in net.named_children():
        if name == "blocks":
            break
        x = layer(x)
    maps = [x] if STEM in ends else []
    for place, stage in enumerate(net.blocks):
        for index, block in enumerate(stage):
            x = block(x)
            if index == 0 and place in starts:
                maps.append(x)
        if place in ends:
            maps.append(x)
    return maps


def _stage(module: str) -> int:
    """Place in ``net.blocks`` of the module that gives a map; ``STEM`` for those before it."""
    name, _, place = module.partition(".")
    return int(place) if name == "blocks" and place.isdigit() else STEM


def level_names(strides: Sequence[int]) -> list[str]:
    """``C`` and log2 of each stride; those of a stride given twice have a letter as well: ``C5a``, ``C5b``."""
    names = [f"C{stride.bit_length() - 1}" for stride in strides]
    return [f"{name}{'ab'[names[:i].count(name)]}" if names.count(name) > 1 else name for i, name in enumerate(names)]
