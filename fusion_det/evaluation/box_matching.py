"""COCO's matching of detections with ground-truth boxes, for all images, classes, area ranges and IoU thresholds at once.

The rules are those of pycocotools 2.0.11, ties and crowds included, and so are the floating-point operations and their order (a compiler
that fuses multiplication and addition, as on ARM, may change the last bit of pycocotools' IoU, not of ours). Two things make it fast in
plain NumPy: only pairs with an IoU of at least 0.5 are looked at, and the 4 x 10 combinations of area range and threshold are bits of one
integer, so that one step matches one detection of every image and class at all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from fusion_det.evaluation.match_table import AREA_RANGES, IOU_THRESHOLDS

_AREAS, _THRESHOLDS = len(AREA_RANGES), len(IOU_THRESHOLDS)
AREA_BITS = np.array([((1 << _THRESHOLDS) - 1) << (area * _THRESHOLDS) for area in range(_AREAS)], dtype=np.uint64)
"""uint64 [A]: the bits of all thresholds of an area range."""
_NONE, _EVERY = np.uint64(0), np.bitwise_or.reduce(AREA_BITS)
_PASSED_BITS = np.array([sum(((1 << n) - 1) << (a * _THRESHOLDS) for a in range(_AREAS)) for n in range(_THRESHOLDS + 1)], dtype=np.uint64)
"""uint64 [T + 1]: the bits of the n lowest thresholds of all area ranges."""
_PAIRS_AT_ONCE = 1 << 18
"""Pairs whose IoU is computed in one go; bounds the memory and keeps the columns in the cache."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes and the group of each: those of one image and one class have the same number."""

    corners: np.ndarray
    """float64 [4, N], x1 y1 x2 y2."""
    area: np.ndarray
    """float64 [N], width x height."""
    group: np.ndarray
    """int64 [N]."""

    @classmethod
    def of(cls, xywh: np.ndarray, group: np.ndarray) -> Self:
        x, y, width, height = xywh.T
        return cls(np.stack([x, y, width + x, height + y]), width * height, group)


@dataclass(frozen=True, eq=False)
class TruthBoxes:
    """Ground-truth boxes, sorted by group; those of one group as they came."""

    boxes: Boxes
    crowd: np.ndarray
    """bool [G]."""
    ignored: np.ndarray
    """uint64 [G], the bits at which the box does not count: those of area ranges that it lies outside of, or all of a crowd."""

    @classmethod
    def of(cls, boxes: Boxes, crowd: np.ndarray, annotated_area: np.ndarray) -> Self:
        return cls(boxes, crowd, np.where(crowd, _EVERY, outside(annotated_area)))


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs of a detection and a box of its group with an IoU of at least the lowest threshold, detection by detection.

    A detection's boxes come in the order in which it prefers them: by falling IoU, of equal ones the last first.
    """

    detection: np.ndarray
    """int64 [P], rising."""
    box: np.ndarray
    """int64 [P]."""
    passed: np.ndarray
    """uint64 [P], the bits of the thresholds that the IoU reaches."""


def outside(area: np.ndarray) -> np.ndarray:
    """uint64 [N]: the bits of all area ranges that ``area`` [N] lies outside of."""
    bits = np.zeros(len(area), dtype=np.uint64)
    for (low, high), bit in zip(AREA_RANGES, AREA_BITS, strict=True):
        bits |= np.where((area < low) | (area > high), bit, _NONE)
    return bits


def match_boxes(truth: TruthBoxes, found: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """Bits at which each detection is matched, and at which it is ignored (see :class:`MatchTable`), uint64 [N] each.

    The detections ``found`` of one group come by rank; groups may be mixed.
    """
    matched, ignored = np.zeros(len(found.area), dtype=np.uint64), outside(found.area)
    pairs = _close_pairs(truth, found)
    taken = np.zeros(len(truth.crowd), dtype=np.uint64)
    for detection, first, count in _rounds(pairs.detection, found.group):
        counting, other = _choose(pairs, first, count, truth, taken)
        matched[detection] = counting | other
        ignored[detection] = ignored[detection] & ~counting | other
    return matched, ignored


def _close_pairs(truth: TruthBoxes, found: Boxes) -> _Pairs:
    groups, starts, counts = np.unique(truth.boxes.group, return_index=True, return_counts=True)
    place = np.searchsorted(groups, found.group)
    detection = np.flatnonzero(np.append(groups, -1)[place] == found.group)
    starts, counts = starts[place[detection]], counts[place[detection]]
    columns = [_overlaps(truth, found, detection[part], starts[part], counts[part]) for part in _parts(np.cumsum(counts))]
    if not columns:
        return _Pairs(detection, starts, starts.astype(np.uint64))
    detection, box, iou = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.lexsort((-box, -iou, detection))
    return _Pairs(detection[order], box[order], _PASSED_BITS[np.searchsorted(IOU_THRESHOLDS, iou[order], side="right")])


def _parts(total: np.ndarray) -> Iterator[slice]:
    """Slices with about ``_PAIRS_AT_ONCE`` pairs each; ``total`` is the running number of pairs."""
    start, done = 0, 0
    while start < len(total):
        stop = max(start + 1, int(np.searchsorted(total, done + _PAIRS_AT_ONCE, side="right")))
        yield slice(start, stop)
        start, done = stop, int(total[stop - 1])


def _overlaps(
    truth: TruthBoxes, found: Boxes, detection: np.ndarray, starts: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(detection, box, IoU) of the pairs whose IoU reaches the lowest threshold; detection i has ``counts[i]`` boxes from ``starts[i]``."""
    ends = np.cumsum(counts)
    box = np.arange(ends[-1]) + np.repeat(starts - (ends - counts), counts)
    detection = np.repeat(detection, counts)
    own, other = found.corners[:, detection], truth.boxes.corners[:, box]
    width, height = np.minimum(own[2:], other[2:]) - np.maximum(own[:2], other[:2])
    near = np.flatnonzero((width > 0) & (height > 0))
    detection, box, overlap = detection[near], box[near], width[near] * height[near]
    area = found.area[detection]
    iou = overlap / np.where(truth.crowd[box], area, area + truth.boxes.area[box] - overlap)
    close = np.flatnonzero(iou >= IOU_THRESHOLDS[0])
    return detection[close], box[close], iou[close]


def _rounds(detection: np.ndarray, group: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Detections to match at the same time, the place of the first pair of each, and the number of its pairs, falling.

    A round has one detection of each group: first the best, then the second best, ... ``detection`` is that of :class:`_Pairs`.
    """
    first = np.flatnonzero(np.diff(detection, prepend=-1))
    count = np.diff(np.append(first, len(detection)))
    detection = detection[first]
    number = position_in_run(group[detection], group[detection].argsort(kind="stable"))
    order = np.lexsort((-count, number))
    for part in np.split(order, np.cumsum(np.bincount(number)))[:-1]:
        yield detection[part], first[part], count[part]


def position_in_run(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """int32 [N]: how many equal values come before each one in ``order``, which brings equal values together."""
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)])
    position = np.empty(len(values), dtype=np.int32)
    position[order] = np.arange(len(values)) - np.repeat(starts, np.diff(np.append(starts, len(values))))
    return position


def _choose(pairs: _Pairs, first: np.ndarray, count: np.ndarray, truth: TruthBoxes, taken: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bits at which each detection of a round gets a box that counts, and bits at which it gets another; ``taken`` is brought up to date.

    A box that counts goes before any that does not, whatever the IoU. A crowd takes any number of detections.
    """
    counting, other = np.zeros(len(first), dtype=np.uint64), np.zeros(len(first), dtype=np.uint64)
    columns = []
    for column in range(int(count[0])):
        rows = int(np.searchsorted(-count, -column))  # those with more pairs than that
        pair = first[:rows] + column
        box = pairs.box[pair]
        free = pairs.passed[pair] & ~taken[box]
        chosen = free & ~truth.ignored[box] & ~counting[:rows]
        counting[:rows] |= chosen
        columns.append((rows, box, free, chosen))
    for rows, box, free, chosen in columns:
        second = free & truth.ignored[box] & ~(counting[:rows] | other[:rows])
        other[:rows] |= second
        taken[box] |= np.where(truth.crowd[box], _NONE, chosen | second)
    return counting, other
