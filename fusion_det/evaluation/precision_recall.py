"""From matches to COCO's precision and recall, with a weight for every image: one pass over the true positives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from fusion_det.evaluation.box_metrics import CLASS_NAMES, SUMMARY_NAMES, Number

if TYPE_CHECKING:
    from fusion_det.evaluation.match_table import MatchTable

RECALLS = np.linspace(0.0, 1.0, 101, endpoint=True)
"""float64 [101]: where precision is read off."""
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # COCO's area ranges
_IOU_50, _IOU_75 = 0, 5  # positions in the thresholds 0.50, 0.55, ..., 0.95


@dataclass(frozen=True, eq=False)
class TruePositives:
    """What precision and recall need of a :class:`MatchTable`, whatever the weights of the images.

    Precision changes the envelope only where a true positive raises it, so it is computed there and nowhere else. The M *touched*
    detections (matched at some threshold) may count or not at each of the B = A * T combinations; all others count or not by area alone.
    The P true positives are listed combination by combination, class by class, by falling score; S = B * K such segments.
    """

    touched: np.ndarray
    """int64 [M], positions in the table."""
    class_starts: np.ndarray
    """int64 [K + 1], slices of ``touched``."""
    counted: np.ndarray
    """bool [B, M]: touched and not ignored."""
    counted_untouched: np.ndarray
    """bool [A, N]: not touched and not ignored."""
    entry: np.ndarray
    """int64 [P], index into ``touched``."""
    starts: np.ndarray
    """int64 [S + 1], slices of ``entry``."""

    @classmethod
    def of(cls, table: MatchTable) -> Self:
        areas, thresholds = table.shape
        touched = np.flatnonzero(table.matched_bits)
        matched, ignored = table.matched_bits[touched], table.ignored_bits[touched]
        class_starts = np.searchsorted(touched, table.class_starts)
        counted = np.empty((areas * thresholds, len(touched)), dtype=bool)
        entries, starts, total = [], [], 0
        for b in range(areas * thresholds):
            bit = np.uint64(1 << b)
            counted[b] = ignored & bit == 0
            entry = np.flatnonzero((matched & bit != 0) & counted[b])
            entries.append(entry)
            starts.append(np.searchsorted(entry, class_starts[:-1]) + total)
            total += len(entry)
        untouched = table.matched_bits == 0
        first_bits = [np.uint64(1 << (a * thresholds)) for a in range(areas)]
        return cls(
            touched=touched,
            class_starts=class_starts,
            counted=counted,
            counted_untouched=np.array([untouched & (table.ignored_bits & bit == 0) for bit in first_bits]),
            entry=np.concatenate(entries),
            starts=np.append(np.concatenate(starts), total),
        )


def precision_recall(table: MatchTable, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """See :meth:`MatchTable.precision_recall`."""
    (areas, thresholds), classes = table.shape, len(table.category_ids)
    positives = table.true_positives
    weights = None if weights is None else _whole(weights, len(table.image_ids))
    of_detection = np.ones(len(table), dtype=np.int64) if weights is None else weights[table.image]
    boxes = _boxes(table, weights)

    hits = of_detection[positives.touched[positives.entry]]  # [P]
    before = np.concatenate([[0], np.cumsum(hits)])  # [P + 1]
    start, end = positives.starts[:-1], positives.starts[1:]
    true = before[1:] - np.repeat(before[start], end - start)  # [P] true positives of the segment so far
    precision = true / (_counted(table, of_detection) + np.spacing(1))
    hits_of_segment = (before[end] - before[start]).reshape(areas, thresholds, classes)

    needed = needed_hits(boxes)[:, None]  # [A, 1, K, R]
    wanted = before[start].reshape(areas, thresholds, classes, 1) + np.maximum(needed, 1)
    place = np.searchsorted(before[1:], wanted.reshape(-1)).reshape(wanted.shape)
    reached = needed <= hits_of_segment[..., None]
    reached &= hits_of_segment[..., None] > 0
    place = np.where(reached, place, end.reshape(areas, thresholds, classes, 1))
    # The best precision from each place to the next one, then from each place to the end of its segment.
    best = np.maximum.reduceat(np.append(precision, 0.0), place.reshape(-1)).reshape(place.shape) if place.size else place.astype(float)
    best[~reached] = 0
    best = np.maximum.accumulate(best[..., ::-1], axis=-1)[..., ::-1]
    best[np.broadcast_to((boxes == 0)[:, None], best.shape[:-1])] = -1
    return np.ascontiguousarray(best.transpose(1, 3, 2, 0)), _recall(table, hits, hits_of_segment, boxes)


def summary_numbers(precision: np.ndarray, recall: np.ndarray) -> dict[str, Number]:
    """The twelve numbers of :data:`SUMMARY_NAMES` from precision [T, 101, K, A] and recall [T, K, A, 3]."""
    by_count = {name: mean_of_defined(recall[..., _ALL, m]) for m, name in enumerate(("AR1", "AR10", "AR100"))}
    by_size = {name: mean_of_defined(recall[..., area, -1]) for name, area in (("ARs", _SMALL), ("ARm", _MEDIUM), ("ARl", _LARGE))}
    numbers = class_numbers(precision, recall) | by_count | by_size
    return {name: numbers[name] for name in SUMMARY_NAMES}


def class_numbers(precision: np.ndarray, recall: np.ndarray) -> dict[str, Number]:
    """The numbers that exist for one class ([T, R, A], [T, A, 3]) as well as for all of them ([T, R, K, A], [T, K, A, 3])."""
    numbers = (
        mean_of_defined(precision[..., _ALL]),
        mean_of_defined(precision[_IOU_50, ..., _ALL]),
        mean_of_defined(precision[_IOU_75, ..., _ALL]),
        *(mean_of_defined(precision[..., area]) for area in (_SMALL, _MEDIUM, _LARGE)),
        mean_of_defined(recall[..., _ALL, -1]),
    )
    return dict(zip(CLASS_NAMES, numbers, strict=True))


def mean_of_defined(values: np.ndarray) -> Number:
    """The mean of what is defined, or ``None``; -1 marks the undefined. The order of summation is pycocotools'."""
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else None


def _whole(weights: np.ndarray, images: int) -> np.ndarray:
    values = np.asarray(weights)
    if values.shape != (images,) or not np.isfinite(values).all() or (values < 0).any() or (values != np.floor(values)).any():
        raise ValueError(f"expected {images} whole numbers >= 0, got {values.dtype} of shape {values.shape}")
    return values.astype(np.int64)


def _boxes(table: MatchTable, weights: np.ndarray | None) -> np.ndarray:
    """int64 [A, K]: boxes to find."""
    repeats = None if weights is None else weights[table.truth_image]
    rows = [counted.astype(np.int64) if repeats is None else counted * repeats for counted in table.truth_counted]
    return np.array([np.bincount(table.truth_class, row, len(table.category_ids)) for row in rows]).astype(np.int64)


def _counted(table: MatchTable, of_detection: np.ndarray) -> np.ndarray:
    """int64 [P]: detections of the class that count, down to and with each true positive."""
    positives, (areas, thresholds) = table.true_positives, table.shape
    per_class = np.diff(positives.class_starts)
    of_touched, found = of_detection[positives.touched], []
    for area in range(areas):
        others = np.concatenate([[0], np.cumsum(np.where(positives.counted_untouched[area], of_detection, 0))])
        others = others[positives.touched] - np.repeat(others[table.class_starts[:-1]], per_class)
        for b in range(area * thresholds, (area + 1) * thresholds):
            entry = positives.entry[positives.starts[b * len(per_class)] : positives.starts[(b + 1) * len(per_class)]]
            own = np.concatenate([[0], np.cumsum(np.where(positives.counted[b], of_touched, 0))])
            found.append(others[entry] + own[entry + 1] - np.repeat(own[positives.class_starts[:-1]], per_class)[entry])
    return np.concatenate(found)


def needed_hits(boxes: np.ndarray) -> np.ndarray:
    """int64 [A, K, R]: the smallest number of true positives whose recall, as floating point has it, reaches each of RECALLS."""
    total = np.maximum(boxes, 1)[..., None]
    needed = np.ceil(RECALLS * total).astype(np.int64)
    needed -= (needed > 0) & ((needed - 1) / total >= RECALLS)
    return needed + (needed / total < RECALLS)


def _recall(table: MatchTable, hits: np.ndarray, hits_of_segment: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """float64 [T, K, A, 3]."""
    positives = table.true_positives
    rank = table.rank[positives.touched[positives.entry]]
    segment = np.repeat(np.arange(len(positives.starts) - 1), np.diff(positives.starts))
    found = [np.bincount(segment, hits * (rank < limit), hits_of_segment.size).reshape(hits_of_segment.shape) for limit in (1, 10)]
    recall = np.stack([*found, hits_of_segment], axis=-1) / np.maximum(boxes, 1)[:, None, :, None]
    recall[np.broadcast_to((boxes == 0)[:, None], recall.shape[:-1])] = -1
    return np.ascontiguousarray(recall.transpose(1, 2, 0, 3))
