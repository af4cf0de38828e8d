"""MS-CNN's templates: which filter looks for objects of which size on which level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from fusion_det.structures import LevelSpec

Side = TypeVar("Side", int, float)


class Template(NamedTuple):
    """One filter and the box that it stands for."""

    place: int
    """Index of its level."""
    kernel: tuple[int, int]
    """Width and height of its convolution, in cells."""
    size: tuple[float, float]
    """Width and height of its box, in pixels."""


def make_templates(
    levels: Sequence[LevelSpec], kernels: list[list[list[int]]], sizes: list[list[list[float]]] | None, scale: float
) -> list[Template]:
    """The templates of all levels, fine to coarse; a ``ValueError`` for what does not go with the levels.

    ``kernels``: [width, height] of each filter, one list for all levels or one per level; ``sizes``: [width, height] in pixels, one per
    filter, or ``None``: ``scale`` times what the filter covers (kernel times stride).
    """
    filters = _per_level("kernels", kernels, levels)
    if sizes is None:
        boxes = [[[scale * side * level.stride for side in kernel] for kernel in row] for level, row in zip(levels, filters, strict=True)]
    else:
        boxes = _per_level("template_sizes", sizes, levels)
    found = []
    for place, (level, row, pixels) in enumerate(zip(levels, filters, boxes, strict=True)):
        if not row or len(row) != len(pixels):
            raise ValueError(f"rpn: expected as many template_sizes as kernels on {level.name}, at least one, got {pixels} for {row}")
        found += [Template(place, *_pair(level, kernel, size)) for kernel, size in zip(row, pixels, strict=True)]
    _check_order(levels, found)
    return found


def _per_level(key: str, given: list[list[list[Side]]], levels: Sequence[LevelSpec]) -> list[list[list[Side]]]:
    rows = given * len(levels) if len(given) == 1 else given
    if len(rows) != len(levels):
        names = [level.name for level in levels]
        raise ValueError(f"rpn: expected {key} for each of the {len(levels)} levels {names}, or one list for all, got {len(given)} lists")
    return rows


def _pair(level: LevelSpec, kernel: list[int], size: list[float]) -> tuple[tuple[int, int], tuple[float, float]]:
    if len(kernel) != 2 or len(size) != 2:
        raise ValueError(f"rpn: expected [width, height] of every kernel and template, got {kernel} and {size} on {level.name}")
    if any(side % 2 == 0 for side in kernel):
        raise ValueError(f"rpn: kernels have odd sides, so that maps keep their size, got {kernel} on {level.name}")
    if min(size) < level.stride:
        raise ValueError(f"rpn: template {size} of {level.name} is smaller than its stride {level.stride}: objects lie between cells")
    return (kernel[0], kernel[1]), (size[0], size[1])


def _check_order(levels: Sequence[LevelSpec], templates: Sequence[Template]) -> None:
    """Refuse a coarse level whose largest template is no larger than a finer level's."""
    largest = [max(t.size[0] * t.size[1] for t in templates if t.place == place) for place in range(len(levels))]
    for finer, coarser, small, large in zip(levels, levels[1:], largest, largest[1:], strict=False):
        if large <= small:
            raise ValueError(f"rpn: templates grow with the stride, but {coarser.name}'s largest is no larger than {finer.name}'s")
