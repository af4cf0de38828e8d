"""Do scores tell how often detections are right? Reliability bins and the detection calibration error. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fusion_det.evaluation.box_metrics import Number
from fusion_det.evaluation.error_types import CORRECT, ErrorTable


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores against precision at one IoU, in M bins of equal width over 0..1. A bin has its lower end, the last also its upper end."""

    iou_threshold: float
    minimum_score: float
    count: np.ndarray
    """int64 [M] detections."""
    mean_score: np.ndarray
    """float64 [M], NaN for an empty bin."""
    precision: np.ndarray
    """float64 [M], NaN for an empty bin."""
    error: Number
    """D-ECE over the detections of all classes, 0 (calibrated) to 1; ``None`` without detections."""
    excess: Number
    """Mean score minus precision over all detections: above 0 the detector is too sure."""
    per_class: dict[str, dict[str, Any]]
    """By class name: ``error``, ``excess``, ``detections``."""

    def as_dict(self) -> dict[str, Any]:
        """Plain containers for a JSON file."""
        edges = np.linspace(0, 1, len(self.count) + 1).tolist()
        rows = zip(edges, edges[1:], self.count.tolist(), self.mean_score.tolist(), self.precision.tolist(), strict=False)
        return {
            "iou_threshold": self.iou_threshold,
            "minimum_score": self.minimum_score,
            "error": self.error,
            "excess": self.excess,
            "bins": [
                {"from": low, "to": high, "detections": n, "mean_score": score if n else None, "precision": right if n else None}
                for low, high, n, score, right in rows
            ],
            "per_class": {name: dict(values) for name, values in self.per_class.items()},
        }

    def table(self) -> str:
        """One line per bin that holds detections."""
        if self.error is None or self.excess is None:
            return "calibration: no detections"
        lines = [
            f"calibration error (D-ECE) {self.error:.3f}, mean score minus precision {self.excess:+.3f}, at IoU {self.iou_threshold:g}"
        ]
        lines.append("      score  detections  mean score  precision")
        edges = np.linspace(0, 1, len(self.count) + 1)
        for m in np.flatnonzero(self.count):
            span = f"{edges[m]:.2f}-{edges[m + 1]:.2f}"
            lines.append(f"  {span:>9}  {self.count[m]:>10}  {self.mean_score[m]:>10.3f}  {self.precision[m]:>9.3f}")
        return "\n".join(lines)


def calibration(errors: ErrorTable, *, bins: int = 10, minimum_score: float = 0.0) -> Calibration:
    """Reliability of the scores at the foreground IoU of ``errors``; ignored detections are left out.

    D-ECE = sum over bins of (detections in the bin / all detections) * abs(precision - mean score), with bins over the score alone:
    Kueppers et al., "Multivariate Confidence Calibration for Object Detection", CVPR Workshops 2020. Boxes that were not found
    have no say. Low scores are most of what a detector gives, and weigh accordingly; ``minimum_score`` leaves them out.

    Raises ``ValueError`` for scores outside 0..1, which cannot be probabilities.
    """
    if bins < 1:
        raise ValueError(f"bins: expected at least 1, got {bins}")
    chosen = ~errors.ignored & (errors.overlaps.score >= minimum_score)
    score, label = errors.overlaps.score[chosen], errors.overlaps.label[chosen]
    if len(score) and (score.min() < 0 or score.max() > 1):
        raise ValueError(f"expected scores from 0 to 1, got {score.min():g} to {score.max():g}")
    right = (errors.kind[chosen] == CORRECT).astype(np.float64)
    classes = len(errors.overlaps.category_ids)
    cell = label * bins + np.minimum((score * bins).astype(np.int64), bins - 1)
    count, scores, rights = (
        np.bincount(cell, weights=values, minlength=classes * bins).reshape(classes, bins) for values in (np.ones_like(score), score, right)
    )
    with np.errstate(invalid="ignore"):
        mean_score, precision = scores.sum(axis=0) / count.sum(axis=0), rights.sum(axis=0) / count.sum(axis=0)
    error, excess = _error(count.sum(axis=0), scores.sum(axis=0), rights.sum(axis=0))
    per_class = {}
    for k, name in enumerate(errors.overlaps.category_names):
        class_error, class_excess = _error(count[k], scores[k], rights[k])
        per_class[name] = {"error": class_error, "excess": class_excess, "detections": int(count[k].sum())}
    return Calibration(
        errors.foreground_iou, minimum_score, count.sum(axis=0).astype(np.int64), mean_score, precision, error, excess, per_class
    )


def _error(count: np.ndarray, scores: np.ndarray, rights: np.ndarray) -> tuple[Number, Number]:
    """D-ECE and mean excess from sums [M] per bin; the count of a bin cancels out of its share times its gap."""
    total = count.sum()
    if not total:
        return None, None
    return float(np.abs(rights - scores).sum() / total), float((scores.sum() - rights.sum()) / total)
