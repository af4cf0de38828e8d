"""Precision, recall and F1 by score threshold, and the threshold with the best F1. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusion_det.evaluation.box_metrics import Number, printable
from fusion_det.evaluation.error_types import CORRECT, ErrorTable

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(20))


@dataclass(frozen=True)
class ScoreThresholds:
    """What one sees when only detections with at least a certain score are shown.

    Each entry is ``{threshold, precision, recall, F1, detections}``; a number is ``None`` where nothing defines it.
    """

    iou_threshold: float
    best: dict[str, Number]
    """The threshold with the best F1 over the detections and boxes of all classes together."""
    curve: tuple[dict[str, Number], ...]
    """The same counts at :data:`THRESHOLDS`."""
    best_per_class: dict[str, dict[str, Number]]
    """By class name."""

    def as_dict(self) -> dict[str, Any]:
        """Plain containers for a JSON file."""
        return {
            "iou_threshold": self.iou_threshold,
            "best": dict(self.best),
            "curve": [dict(point) for point in self.curve],
            "best_per_class": {name: dict(point) for name, point in self.best_per_class.items()},
        }

    def table(self) -> str:
        """Every second point of the curve, then the best threshold of all classes and of the first twenty."""
        rows = {f"score >= {point['threshold']:.2f}": point for point in self.curve[::2]}
        rows["best, all classes"] = self.best
        if len(self.best_per_class) > 1:
            rows |= {f"best, {printable(name)}": point for name, point in list(self.best_per_class.items())[:20]}
        width = max(map(len, rows))
        header = f"{'':<{width}}  threshold  precision  recall     F1  detections"
        return "\n".join([header, *(f"{name:<{width}}  {_line(point)}" for name, point in rows.items())])


def score_thresholds(errors: ErrorTable) -> ScoreThresholds:
    """Tables at the foreground IoU of ``errors``; ignored detections are left out.

    Whether a detection is right does not depend on the threshold, as only better-scoring ones can take its box. Of several thresholds
    with the same F1 the highest is given; detections of one score are shown together or not at all.
    """
    overlaps, chosen = errors.overlaps, ~errors.ignored
    score, label, right = overlaps.score[chosen], overlaps.label[chosen], errors.kind[chosen] == CORRECT
    boxes = np.bincount(overlaps.box_label, minlength=len(overlaps.category_ids))
    points = [_point(threshold, right[score >= threshold], int(boxes.sum())) for threshold in THRESHOLDS]
    per_class = {name: _best(score[label == k], right[label == k], int(boxes[k])) for k, name in enumerate(overlaps.category_names)}
    return ScoreThresholds(errors.foreground_iou, _best(score, right, int(boxes.sum())), tuple(points), per_class)


def _best(score: np.ndarray, right: np.ndarray, boxes: int) -> dict[str, Number]:
    order = np.argsort(-score, kind="stable")
    score, right = score[order], right[order]
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)) if len(score) else np.zeros(0, np.int64)
    if not len(last) or not boxes:
        return _point(None, right[:0], boxes)
    hits = right.cumsum()[last]
    best = int(np.argmax(2 * hits / (last + 1 + boxes)))
    return _point(float(score[last[best]]), right[: last[best] + 1], boxes)


def _point(threshold: Number, right: np.ndarray, boxes: int) -> dict[str, Number]:
    hits, shown = int(right.sum()), len(right)
    return {
        "threshold": threshold,
        "precision": hits / shown if shown else None,
        "recall": hits / boxes if boxes else None,
        "F1": 2 * hits / (shown + boxes) if shown + boxes else None,
        "detections": shown,
    }


def _line(point: Mapping[str, Number]) -> str:
    threshold, precision, recall, f1 = (point[name] for name in ("threshold", "precision", "recall", "F1"))
    shown = ["-" if value is None else f"{value:.3f}" for value in (threshold, precision, recall, f1)]
    return f"{shown[0]:>9}  {shown[1]:>9}  {shown[2]:>6}  {shown[3]:>5}  {point['detections']:>10}"
