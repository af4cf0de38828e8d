"""Average precision of one class for many resamples of the images at once: running sums in place of sorting and matching.

The resamples are columns, B at a time, so that each step is a few long array operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from fusion_det.compare.curves import Curve

BLOCK = 16
"""Rows in which running sums and maxima are made; NumPy's own accumulate along the first axis is tens of times slower."""
_CHUNK = 4096
"""Detections gathered at once; bounds the memory."""
_ROWS_AT_ONCE = 512
"""Streak ends done at once, unless one threshold has more; fits the processor's cache."""
_EXACT = 1 << 24
"""float32 holds whole numbers up to here."""
_RECALLS = np.linspace(0.0, 1.0, 101)
_LATE_RECALLS = np.flatnonzero(np.arange(101) / 100 < _RECALLS)
"""Where COCO's recall points lie one bit above j / 100, so that a recall of exactly j / 100 does not reach them: 35, 41, 47, ..."""


def running_sums(weights: np.ndarray, images: np.ndarray, until: np.ndarray, dtype: type = np.float64) -> np.ndarray:
    """Weights of the first ``until`` entries of ``images``, for each of B resamples.

    ``weights``: integers [I, B], so small that 16 of them do not overflow; ``images``: int64 [n]; ``until``: int64 [m], not falling, in
    0..n. Returns [m, B] of ``dtype``.
    """
    columns = weights.shape[1]
    sums: np.ndarray = np.zeros((len(until), columns), dtype=dtype)
    carry: np.ndarray = np.zeros(columns, dtype=dtype)
    filled = int(np.searchsorted(until, 0, side="right"))
    for start in range(0, len(images), _CHUNK):
        part = images[start : start + _CHUNK]
        stop = int(np.searchsorted(until, start + len(part), side="right"))
        blocks = -(-len(part) // BLOCK)
        rows = np.empty((blocks * BLOCK, columns), dtype=weights.dtype)
        np.take(weights, part, axis=0, out=rows[: len(part)], mode="clip")  # the other modes copy
        rows[len(part) :] = 0
        grouped = rows.reshape(blocks, BLOCK, columns)
        for row in range(1, BLOCK):
            np.add(grouped[:, row], grouped[:, row - 1], out=grouped[:, row])
        before: np.ndarray = np.empty((blocks + 1, columns), dtype=dtype)
        before[0] = carry
        for block in range(blocks):
            np.add(before[block], grouped[block, -1], out=before[block + 1])
        carry = before[-1]
        wanted = until[filled:stop] - (start + 1)
        np.add(rows[wanted], before[wanted // BLOCK], out=sums[filled:stop])
        filled = stop
    return sums


def average_precisions(curve: Curve, weights: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """COCO's 101-point average precision, float64 [T, B], for ``weights`` [I, B] and ``boxes``, float64 [B]: those to find, at least 1.

    The numbers are pycocotools' for a data set with so many copies of each image, its rounding of recall included.
    """
    thresholds = len(curve.starts) - 1
    result = np.zeros((thresholds, weights.shape[1]))
    if not len(curve.hits_until):
        return result
    entries = max(len(curve.hit_image), len(curve.always_image) + len(curve.sometimes_image))
    whole = np.float32 if entries * int(weights.max(initial=0)) < _EXACT else np.float64
    hits = running_sums(weights, curve.hit_image, curve.hits_until, whole)
    others = running_sums(weights, curve.always_image, curve.always_until, whole)
    sometimes = running_sums(weights, curve.sometimes_image, curve.sometimes_until, whole) if len(curve.sometimes_image) else None
    exact = np.float32 if boxes.max() < 10_000 else np.float64
    per_hit, half = (100 / boxes).astype(exact), (0.5 / boxes).astype(exact)
    late = _late_columns(boxes)
    for first, last in _groups(curve.starts):
        rows = slice(curve.starts[first], curve.starts[last])
        starts = curve.starts[first : last + 1] - curve.starts[first]
        counted = others[curve.place[rows]]
        if sometimes is not None:
            counted += _restarted(sometimes, curve.starts[first : last + 1])
        found = _restarted(hits, curve.starts[first : last + 1])
        np.maximum(counted, 1, out=counted)
        envelope = np.divide(found, counted, dtype=np.float64)
        _falling_maximum(envelope, starts)
        # Recall points reached: floor(100 c / n), plus the point at 0. The half keeps exact multiples on the right side of rounding.
        points = np.multiply(found, per_hit, dtype=exact)
        points += half
        np.floor(points, out=points)
        for columns, tie in late:
            points[:, columns] -= found[:, columns] == tie
        steps = points.copy()
        steps[1:] -= points[:-1]
        begins = starts[:-1][starts[:-1] < starts[1:]]
        steps[begins] = points[begins] + 1
        envelope *= steps
        for t in range(first, last):
            result[t] = envelope[starts[t - first] : starts[t - first + 1]].sum(axis=0)
    return result / 101


def _late_columns(boxes: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each late recall point: the resamples in which some number of hits is exactly on it, and that number."""
    hits = boxes * _LATE_RECALLS[:, None] / 100
    whole = hits == np.floor(hits)
    return [(columns, row[columns]) for row, chosen in zip(hits, whole, strict=True) if len(columns := np.flatnonzero(chosen))]


def _groups(starts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of thresholds that are done together; thresholds without rows are left out at the ends."""
    first = 0
    for t in range(1, len(starts)):
        if t == len(starts) - 1 or starts[t + 1] - starts[first] > _ROWS_AT_ONCE:
            if starts[t] > starts[first]:
                yield first, t
            first = t


def _restarted(sums: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The rows ``starts[0]:starts[-1]`` of running sums that go on over thresholds, starting anew at each of them."""
    rows = sums[starts[0] : starts[-1]].copy()
    for start, stop in pairwise(starts):
        if start and stop > start:
            rows[start - starts[0] : stop - starts[0]] -= sums[start - 1]
    return rows


def _falling_maximum(values: np.ndarray, starts: np.ndarray) -> None:
    """Replace each of [E, B] by the greatest from there to the end of its slice; slices are multiples of BLOCK long."""
    grouped = values.reshape(-1, BLOCK, values.shape[1])
    for row in range(BLOCK - 2, -1, -1):
        np.maximum(grouped[:, row], grouped[:, row + 1], out=grouped[:, row])
    ends = set((starts[1:] // BLOCK).tolist())
    for block in range(len(grouped) - 2, -1, -1):
        if block + 1 not in ends:
            np.maximum(grouped[block], grouped[block + 1, 0], out=grouped[block])
