"""A few fixed picture shapes, so that batches need little padding and compiled code sees few shapes."""

from __future__ import annotations

import numpy as np

from fusion_det.errors import ConfigError

Shape = tuple[int, int]
"""Height and width in pixels of the network input."""


def make_buckets(image_size: int, multiple: int = 32) -> tuple[Shape, ...]:
    """The shapes for a long side of ``image_size``: square, landscape 4:3 and portrait 3:4, each side a multiple of ``multiple``."""
    if image_size < 1 or image_size % multiple:
        near = max(multiple, round(image_size / multiple) * multiple)
        raise ConfigError(f"image_size {image_size} is not a multiple of {multiple}", where="data.image_size", mend=f"use {near}")
    short = -(-image_size * 3 // 4 // multiple) * multiple
    return tuple(dict.fromkeys(((image_size, image_size), (short, image_size), (image_size, short))))


def resized(buckets: tuple[Shape, ...], image_size: int, multiple: int = 32) -> tuple[Shape, ...]:
    """The same shapes in the same order for another long side: a picture has the same bucket at every size. Sides are rounded up."""
    long_side = max(max(shape) for shape in buckets) * multiple
    if long_side == image_size * multiple:
        return buckets
    return tuple((-(-h * image_size // long_side) * multiple, -(-w * image_size // long_side) * multiple) for h, w in buckets)


def fitted_size(height: int, width: int, bucket: Shape) -> Shape:
    """Height and width of a picture scaled, its aspect kept, to the largest that ``bucket`` holds (small pictures grow)."""
    scale = min(bucket[0] / height, bucket[1] / width)
    return min(bucket[0], max(1, round(height * scale))), min(bucket[1], max(1, round(width * scale)))


def assign(sizes: np.ndarray, buckets: tuple[Shape, ...]) -> np.ndarray:
    """int64 [N]: for pictures of ``sizes`` int64 [N, 2] (height, width) the bucket with the least padding.

    The long side of every picture becomes the long side of the buckets, so that a picture's scale does not depend on its bucket; of the
    buckets that hold it the smallest is taken.
    """
    shapes = np.array(buckets)
    scaled = np.maximum(1, np.round(sizes * (shapes.max() / sizes.max(axis=1, keepdims=True))))
    holds = (scaled[:, None, :] <= shapes[None]).all(2)
    if not holds.any(1).all():
        raise ValueError(f"expected buckets with a square of the long side, got {buckets}")
    return np.where(holds, shapes.prod(1), np.iinfo(np.int64).max).argmin(1)
