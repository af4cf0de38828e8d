"""One resampler for enlarging and another for reducing."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def up_down(
    channels: int,
    from_stride: int,
    to_stride: int,
    out_channels: int | None = None,
    *,
    up: Callable[..., nn.Module],
    down: Callable[..., nn.Module],
) -> nn.Module:
    """``up`` for edges to a finer stride, ``down`` for edges to a coarser one."""
    chosen = up if from_stride > to_stride else down
    return chosen(channels, from_stride, to_stride) if out_channels is None else chosen(channels, from_stride, to_stride, out_channels)
