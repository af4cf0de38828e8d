"""How many channels the maps inside a neck have."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from fusion_det.structures import LevelSpec


class Widths:
    """Channels at each stride: ``channels`` everywhere, or another number, or one number per backbone level (fine to coarse).

    A fraction up to 1.0 is a share of each level's own channels.
    """

    def __init__(self, levels: Sequence[LevelSpec], channels: int, widths: int | float | Sequence[int] | None) -> None:
        if isinstance(widths, float):
            widths = [max(int(level.channels * widths), 1) for level in levels]
        if widths is None or isinstance(widths, int):
            widths = [widths or channels] * len(levels)
        if len(widths) != len(levels):
            raise ValueError(f"neck.widths: expected one number per backbone level {[level.name for level in levels]}, got {list(widths)}")
        self.channels = channels
        for (fine, width), (coarse, other) in pairwise(zip(levels, widths, strict=True)):
            if fine.stride == coarse.stride and width != other:
                fault = f"{fine.name} and {coarse.name} share stride {fine.stride} and so one width, got {width} and {other}"
                raise ValueError(f"neck.widths: {fault}; null gives all levels the neck's channels")
        self._by_stride = {level.stride: width for level, width in zip(levels, widths, strict=True)}

    def at(self, stride: int) -> int:
        """The width at ``stride``; strides that the backbone lacks have that of the next finer level, else of the finest."""
        finer = [own for own in self._by_stride if own <= stride]
        return self._by_stride[max(finer) if finer else min(self._by_stride)]
