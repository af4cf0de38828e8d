"""MobileNetV3-Large: torchvision's names of its layers and timm's."""

from __future__ import annotations

FIRST, LAST = 1, 16
STAGES = {1: (2, 3), 2: (4, 5, 6), 3: (7, 8, 9, 10), 4: (11, 12), 5: (13, 14, 15)}
"""timm's number of a stage, and the places of its blocks in torchvision's ``features``; the block before them does not widen."""
SQUEEZED = {4, 5, 6, 11, 12, 13, 14, 15}
"""Blocks with a gate (squeeze and excitation)."""


def mobilenet_v3_large(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    """Rules from ``<theirs>.<i>`` (torchvision's ``features``) to ``<ours>.conv_stem``, ``<ours>.blocks`` (timm)."""
    rules = _pair(f"{theirs}.0", ours, "conv_stem", "bn1") + _pair(f"{theirs}.{LAST}", f"{ours}.blocks.6.0", "conv", "bn1")
    rules += _pair(f"{theirs}.{FIRST}.block.0", f"{ours}.blocks.0.0", "conv_dw", "bn1")
    rules += _pair(f"{theirs}.{FIRST}.block.1", f"{ours}.blocks.0.0", "conv_pw", "bn2")
    for stage, places in STAGES.items():
        for index, place in enumerate(places):
            block, start = f"{theirs}.{place}.block", f"{ours}.blocks.{stage}.{index}"
            rules += _pair(f"{block}.0", start, "conv_pw", "bn1") + _pair(f"{block}.1", start, "conv_dw", "bn2")
            if place in SQUEEZED:
                rules += [(f"{block}.2.fc1", f"{start}.se.conv_reduce"), (f"{block}.2.fc2", f"{start}.se.conv_expand")]
            rules += _pair(f"{block}.{3 if place in SQUEEZED else 2}", start, "conv_pwl", "bn3")
    return tuple(rules)


def _pair(theirs: str, ours: str, conv: str, norm: str) -> list[tuple[str, str]]:
    """Rules of a convolution and the BatchNorm behind it."""
    return [(f"{theirs}.0", f"{ours}.{conv}"), (f"{theirs}.1", f"{ours}.{norm}")]
