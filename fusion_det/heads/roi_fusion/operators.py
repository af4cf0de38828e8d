"""What the kinds share: widths that must agree, and operators that may change them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from fusion_det.structures import FusionSite, LevelSpec


def one_width(levels: Sequence[LevelSpec], *, owner: str) -> int:
    """The channel count of all pooled levels, or a ``ValueError`` if they differ."""
    if any(level.channels != levels[0].channels for level in levels):
        widths = ", ".join(f"{level.name} {level.channels}" for level in levels)
        raise ValueError(f"{owner}: boxes are pooled from levels of one width (neck.widths=null), got {widths} channels; ion takes any")
    return levels[0].channels


def make_operator(fusion: Callable[..., Any], channels: int, inputs: int) -> tuple[nn.Module, int]:
    """The operator for ``inputs`` maps of ``channels``, and the channels that it gives."""
    operator = fusion(channels, inputs)
    return operator, int(getattr(operator, "out_channels", channels))


def one_site(kind: str, levels: Sequence[LevelSpec], inputs: Sequence[str], operator: nn.Module | None) -> list[FusionSite]:
    """The one place where a kind of RoI fusion joins maps; none without an operator."""
    return [] if operator is None else [FusionSite(kind, "RoI", levels[0].stride, tuple(inputs), operator, per_box=True)]
