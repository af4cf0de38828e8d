"""Detections that are given twice: a picture that was predicted twice, as padded data-parallel samplers do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fusion_det.evaluation.predictions import DetectionArrays

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, bits well mixed (2^64 / golden ratio)


def repeated(detections: DetectionArrays) -> tuple[np.ndarray, np.ndarray]:
    """Rows that equal an earlier one in image, category, box and score, rising, and the first of each one's equals; int64 [R] twice."""
    mixed = _mixed(detections)
    ordered = np.sort(mixed)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    rows = np.flatnonzero(np.isin(mixed, twice))
    ids = np.stack([detections.image_ids[rows], detections.category_ids[rows]], axis=1)
    numbers = np.concatenate([detections.boxes[rows], detections.scores[rows, None]], axis=1) + 0.0
    keys = np.concatenate([ids, np.ascontiguousarray(numbers).view(np.int64)], axis=1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    first_row = rows[first[inverse.reshape(-1)]]
    again = rows != first_row
    return rows[again], first_row[again]


def repeats_warning(detections: DetectionArrays) -> list[str]:
    """One line if there are such rows."""
    again, first = repeated(detections)
    if not len(again):
        return []
    return [f"{len(again)} detections are given twice; first [{again[0]}] as [{first[0]}]: perhaps a picture was predicted twice"]


def _mixed(detections: DetectionArrays) -> np.ndarray:
    """uint64 [N]: a number that is the same for equal rows, and hardly ever for others."""
    columns = [*(detections.boxes + 0.0).T, detections.scores + 0.0]  # + 0.0: -0.0 equals 0.0
    values = [detections.image_ids, detections.category_ids, *(np.ascontiguousarray(column).view(np.int64) for column in columns)]
    mixed = np.zeros(len(detections), dtype=np.uint64)
    for value in values:
        mixed = (mixed ^ value.astype(np.uint64)) * _FACTOR
        mixed ^= mixed >> np.uint64(29)
    return mixed
