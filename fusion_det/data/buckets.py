"""A few fixed picture shapes, so that batches need little padding and compiled code sees few shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fusion_det.errors import ConfigError

Shape = tuple[int, int]
"""Height and width in pixels of the network input."""


class Filled(NamedTuple):
    """A shape that every picture is stretched to, its aspect lost; any other shape holds the picture and padding."""

    height: int
    width: int


def make_buckets(image_size: int, multiple: int = 32, *, short_side: int | None = None, stretch: bool = False) -> tuple[Shape, ...]:
    """The shapes for a long side of ``image_size``: square, landscape 4:3 and portrait 3:4, each side a multiple of ``multiple``.

    With ``short_side`` the short side of a picture becomes so long, unless its long side would be more than ``image_size`` ("800 x 1333"):
    the shapes then have that short side and the aspects 4:3, 3:2, 1:1 and the longest. ``stretch``: one square, of any size.
    """
    if stretch and short_side is not None:
        raise ConfigError("stretched pictures are square: they have no short side", where="data.short_side", mend="use null")
    if stretch:
        return (Filled(image_size, image_size),)
    for key, side in (("image_size", image_size), ("short_side", short_side)):
        if side is not None and (side < 1 or side % multiple):
            near = max(multiple, round(side / multiple) * multiple)
            raise ConfigError(f"{key} {side} is not a multiple of {multiple}", where=f"data.{key}", mend=f"use {near}")
    if short_side is None:
        short = -(-image_size * 3 // 4 // multiple) * multiple
        return tuple(dict.fromkeys(((image_size, image_size), (short, image_size), (image_size, short))))
    if short_side > image_size:
        mend = f"use at most {image_size}, or a larger image_size"
        raise ConfigError(f"short_side {short_side} is more than image_size {image_size}", where="data.short_side", mend=mend)
    between = [-(-short_side * long // short // multiple) * multiple for long, short in ((4, 3), (3, 2), (1, 1))]
    longs = [image_size, *(long for long in between if long < image_size)]
    return tuple(dict.fromkeys(shape for long in longs for shape in ((short_side, long), (long, short_side))))


def buckets_of(data: Mapping[str, Any], image_size: int) -> tuple[Shape, ...]:
    """The shapes that the node ``data`` of a config means, for a long side of ``image_size``."""
    return make_buckets(image_size, short_side=data.get("short_side"), stretch=data.get("stretch", False))


def resized(buckets: tuple[Shape, ...], image_size: int, multiple: int = 32) -> tuple[Shape, ...]:
    """The same shapes in the same order for another long side: a picture has the same bucket at every size. Sides are rounded up."""
    long_side = max(max(shape) for shape in buckets) * multiple
    if long_side == image_size * multiple:
        return buckets
    sides = [(-(-h * image_size // long_side) * multiple, -(-w * image_size // long_side) * multiple) for h, w in buckets]
    return tuple(Filled(*new) if isinstance(old, Filled) else new for old, new in zip(buckets, sides, strict=True))


def fitted_size(height: int, width: int, bucket: Shape) -> Shape:
    """Height and width of a picture scaled, its aspect kept, to the largest that ``bucket`` holds (small pictures grow); see ``Filled``."""
    if isinstance(bucket, Filled):
        return bucket
    scale = min(bucket[0] / height, bucket[1] / width)
    return min(bucket[0], max(1, round(height * scale))), min(bucket[1], max(1, round(width * scale)))


def assign(sizes: np.ndarray, buckets: tuple[Shape, ...]) -> np.ndarray:
    """int64 [N]: for pictures of ``sizes`` int64 [N, 2] (height, width) the bucket with the least padding.

    Every picture gets the largest size at which any bucket holds it, so that a picture's scale does not depend on its bucket; of the
    buckets that hold it then the smallest is taken.
    """
    shapes = np.array(buckets)
    scale = (shapes[None] / sizes[:, None]).min(axis=2).max(axis=1, keepdims=True)
    scaled = np.maximum(1, np.round(sizes * scale))
    holds = (scaled[:, None, :] <= shapes[None]).all(2)
    return np.where(holds, shapes.prod(1), np.iinfo(np.int64).max).argmin(1)
