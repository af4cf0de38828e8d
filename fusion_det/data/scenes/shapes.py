"""Shapes and textures as small boolean masks. Every mask touches all four sides of its patch, so that patch and box are one."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def _offsets(size: int) -> NDArray[np.float64]:
    """Distance of each pixel centre from the middle of the patch, ``[size]``; multiples of 0.5, so that comparisons are exact."""
    return np.arange(size, dtype=np.float64) - (size - 1) / 2


def disk(size: int) -> Mask:
    squared = _offsets(size) ** 2
    return squared[:, None] + squared[None, :] <= size**2 / 4


def square(size: int) -> Mask:
    return np.ones((size, size), dtype=np.bool_)


def triangle(size: int) -> Mask:
    """Upright: the row ``r`` is ``r + 1`` px wide (one more where parity asks)."""
    return np.abs(_offsets(size))[None, :] <= (np.arange(size)[:, None] + 1) / 2


def diamond(size: int) -> Mask:
    away = np.abs(_offsets(size))
    return away[:, None] + away[None, :] <= size / 2


def cross(size: int) -> Mask:
    """Upright, arms a third of the size thick (same parity as the size, so that it is symmetric)."""
    arm = np.abs(_offsets(size)) <= size / 6
    return arm[:, None] | arm[None, :]


_SHAPES: dict[str, Callable[[int], Mask]] = {
    "disk": disk,
    "square": square,
    "triangle": triangle,
    "diamond": diamond,
    "cross_red": cross,
    "cross_blue": cross,
    "cue": disk,
}


@lru_cache(maxsize=4096)
def shape_mask(kind: str, size: int) -> Mask:
    """Read-only mask ``[size, size]`` of a shape that one colour fills; kept, since a data set asks for few sizes again and again."""
    mask = _SHAPES[kind](size)
    mask.flags.writeable = False
    return mask


@lru_cache(maxsize=4096)
def texture_mask(kind: str, size: int, width: int, phase: int) -> Mask:
    """Read-only mask ``[size, size]``: where a tile shows its first colour; the rest of the tile shows its second.

    ``width`` is that of one stripe or check in px (the period is twice that), ``phase`` in ``[0, 2 * width)`` shifts the pattern.
    """
    bands = (np.arange(size) + phase) // width % 2 == 0
    if kind == "horizontal_stripes":
        mask = np.repeat(bands[:, None], size, axis=1)
    elif kind == "vertical_stripes":
        mask = np.repeat(bands[None, :], size, axis=0)
    elif kind == "checker":
        mask = bands[:, None] ^ bands[None, :]
    else:
        raise ValueError(f"expected a texture, got {kind!r}")
    mask.flags.writeable = False
    return mask
