"""COCO metrics of many resamples of the images, recomputed in full from the cached matches of one run."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fusion_det.compare.curves import Curve, class_curve
from fusion_det.compare.weighted_precision import BLOCK, average_precisions
from fusion_det.evaluation.match_table import MatchTable

AP_METRICS = {"AP": (0, None), "AP50": (0, 0), "AP75": (0, 5), "APs": (1, None), "APm": (2, None), "APl": (3, None)}
"""Name -> area range and threshold (``None``: the mean over all) of the average precisions."""
AR_METRICS = {"AR1": (0, 1), "AR10": (0, 10), "AR100": (0, None), "ARs": (1, None), "ARm": (2, None), "ARl": (3, None)}
"""Name -> area range and detections per image and class (``None``: all kept) of the average recalls."""
METRICS = (*AP_METRICS, *AR_METRICS)
COLUMNS = 256
"""Resamples done at once; four times as many for small tables, where calls cost more than memory."""
_SMALL = 50_000


@dataclass(frozen=True, eq=False)
class Replicates:
    """Metrics of one run for R resamples, in 0..1."""

    summary: dict[str, np.ndarray]
    """By metric: float64 [R], the mean over the classes that have boxes in the resample; NaN if none has."""
    per_class: dict[str, np.ndarray]
    """By metric: float64 [R, K], NaN for a class without boxes in the resample."""


def replicate_metrics(
    table: MatchTable, weights: np.ndarray | None = None, *, metrics: Sequence[str] = ("AP",), threads: int = 1
) -> Replicates:
    """``metrics`` of ``table`` for each row of ``weights``, whole numbers [R, I]; ``None`` stands for one row of ones.

    Equal to pycocotools on a data set with so many copies of each image, the copies of a detection next to each other. Raises
    ``ValueError`` for unknown metrics or wrong weights.
    """
    if unknown := set(metrics) - set(METRICS):
        raise ValueError(f"expected metrics among {METRICS}, got {sorted(unknown)}")
    needs = {name: (AP_METRICS | AR_METRICS)[name] for name in metrics}
    areas, thresholds = table.shape
    if beyond := [name for name, (area, t) in needs.items() if area >= areas or (name in AP_METRICS and (t or 0) >= thresholds)]:
        raise ValueError(f"expected COCO's area ranges and IoU thresholds for {beyond}, got {areas} ranges and {thresholds} thresholds")
    weights = np.ones((1, len(table.image_ids)), np.int16) if weights is None else _checked(weights, len(table.image_ids))
    counts = _Counts.of(table, metrics)
    columns = COLUMNS if len(table) > _SMALL else 4 * COLUMNS

    def block(start: int) -> dict[str, np.ndarray]:
        return counts.metrics(np.ascontiguousarray(weights[start : start + columns].T), metrics)

    starts = range(0, len(weights), columns)
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            blocks = list(pool.map(block, starts))
    else:
        blocks = [block(start) for start in starts]
    per_class = {name: np.concatenate([values[name] for values in blocks]) for name in metrics}
    return Replicates({name: mean_of_defined(values) for name, values in per_class.items()}, per_class)


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    number = defined.sum(axis=-1)
    return np.where(number > 0, np.where(defined, values, 0).sum(axis=-1) / np.maximum(number, 1), np.nan)


def _checked(weights: np.ndarray, images: int) -> np.ndarray:
    values = np.asarray(weights)
    if values.ndim != 2 or values.shape[1] != images or not np.issubdtype(values.dtype, np.integer) or (values < 0).any():
        raise ValueError(f"expected weights as integers >= 0 of shape [R, {images}], got {values.dtype} of shape {values.shape}")
    return values.astype(np.int16 if values.max(initial=0) < 2**15 // BLOCK else np.int32, copy=False)


@dataclass(frozen=True, eq=False)
class _Counts:
    """What the metrics need of a table, made once for all resamples."""

    curves: dict[int, list[Curve]]
    """By area range: one curve for each class."""
    thresholds: dict[int, list[int]]
    """By area range: those of its curves."""
    boxes: dict[int, _ClassSums]
    """By area range: the boxes to find."""
    found: dict[str, _ClassSums]
    """By average recall: the found boxes, all thresholds together."""
    all_thresholds: int

    @classmethod
    def of(cls, table: MatchTable, metrics: Sequence[str]) -> _Counts:
        total = table.shape[1]
        chosen: dict[int, set[int]] = {}
        for name in metrics:
            if name in AP_METRICS:
                area, threshold = AP_METRICS[name]
                chosen.setdefault(area, set()).update(range(total) if threshold is None else [threshold])
        thresholds = {area: sorted(values) for area, values in chosen.items()}
        areas = {(AP_METRICS | AR_METRICS)[name][0] for name in metrics}
        classes = range(len(table.category_ids))
        return cls(
            curves={
                area: [class_curve(table, kind, area, values, multiple=BLOCK) for kind in classes] for area, values in thresholds.items()
            },
            thresholds=thresholds,
            boxes={area: _ClassSums.of(table, table.truth_class, table.truth_image, table.truth_counted[area]) for area in areas},
            found={name: _found(table, *AR_METRICS[name]) for name in metrics if name in AR_METRICS},
            all_thresholds=total,
        )

    def metrics(self, weights: np.ndarray, metrics: Sequence[str]) -> dict[str, np.ndarray]:
        """By metric: float64 [B, K] for ``weights``, integers [I, B]."""
        boxes = {area: sums.times(weights) for area, sums in self.boxes.items()}
        precision = {
            area: np.stack([average_precisions(curve, weights, np.maximum(n, 1)) for curve, n in zip(curves, boxes[area], strict=True)])
            for area, curves in self.curves.items()
        }  # [K, T, B]
        values = {}
        for name in metrics:
            if name in AP_METRICS:
                area, threshold = AP_METRICS[name]
                rows = precision[area]
                value = rows.mean(axis=1) if threshold is None else rows[:, self.thresholds[area].index(threshold)]
            else:
                area = AR_METRICS[name][0]
                value = self.found[name].times(weights) / self.all_thresholds / np.maximum(boxes[area], 1)
            values[name] = np.where(boxes[area] > 0, value, np.nan).T
        return values


@dataclass(frozen=True, eq=False)
class _ClassSums:
    """Numbers of something by class and image, to be added up with weights of the images. (A matrix product would start BLAS threads.)"""

    image: np.ndarray
    """int64 [P], class by class."""
    number: np.ndarray
    """float64 [P, 1]."""
    starts: np.ndarray
    """int64 [K + 1], slices of P."""

    @classmethod
    def of(cls, table: MatchTable, kind: np.ndarray, image: np.ndarray, number: np.ndarray) -> _ClassSums:
        images, classes = len(table.image_ids), len(table.category_ids)
        flat = np.bincount(kind.astype(np.int64) * images + image, number, classes * images)
        place = np.flatnonzero(flat)
        return cls(place % images, flat[place, None], np.searchsorted(place, np.arange(classes + 1) * images))

    def times(self, weights: np.ndarray) -> np.ndarray:
        """float64 [K, B] for ``weights``, integers [I, B]."""
        parts = (slice(start, stop) for start, stop in pairwise(self.starts))
        return np.stack([(weights[self.image[part]] * self.number[part]).sum(axis=0) for part in parts])


def _found(table: MatchTable, area: int, limit: int | None) -> _ClassSums:
    """True positives with a rank below ``limit``, all thresholds together."""
    hits = table.matched_bits & ~table.ignored_bits
    bits = [np.uint64(1 << (area * table.shape[1] + t)) for t in range(table.shape[1])]
    number = sum((hits & bit != 0).astype(np.int64) for bit in bits)
    return _ClassSums.of(table, table.detection_class, table.image, number if limit is None else number * (table.rank < limit))
