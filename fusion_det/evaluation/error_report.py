"""Why AP is what it is, in one go: error types, confusion, calibration, thresholds and levels, as data and as text. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusion_det.evaluation.box_metrics import Number, printable
from fusion_det.evaluation.calibration import Calibration, calibration
from fusion_det.evaluation.confusion_matrix import ConfusionMatrix, confusion_matrix
from fusion_det.evaluation.error_types import ERROR_TYPES, SPECIAL_TYPES, ErrorTable, find_errors
from fusion_det.evaluation.levels import LevelTable, found_by_size, level_table
from fusion_det.evaluation.overlaps import find_overlaps
from fusion_det.evaluation.predictions import DetectionArrays
from fusion_det.evaluation.score_thresholds import ScoreThresholds, score_thresholds
from fusion_det.evaluation.truth_arrays import TruthArrays

_SHOWN_CLASSES = 20


@dataclass(frozen=True, eq=False)
class ErrorReport:
    """The parts of an error analysis. A part that could not be made is the reason, as text."""

    errors: ErrorTable
    delta_ap: dict[str, Number]
    """``AP`` at the foreground IoU, and the gain in it by putting right each of the eight types, in 0..1."""
    per_class: dict[str, dict[str, Number]]
    """The same by class name."""
    sizes: dict[str, dict[str, int]]
    """By size of the box: boxes, found, covered by an error, missed."""
    thresholds: ScoreThresholds
    confusion: ConfusionMatrix
    """At the score threshold with the best F1."""
    calibration: Calibration | str
    levels: LevelTable | str

    def as_dict(self) -> dict[str, Any]:
        """Plain containers for a JSON file, without non-finite numbers."""
        return {
            "foreground_iou": self.errors.foreground_iou,
            "background_iou": self.errors.background_iou,
            "max_detections_per_image": self.errors.overlaps.max_detections,
            "delta_ap": dict(self.delta_ap),
            "counts": self.errors.counts(),
            "per_class": {name: dict(values) for name, values in self.per_class.items()},
            "sizes": {name: dict(values) for name, values in self.sizes.items()},
            "score_thresholds": self.thresholds.as_dict(),
            "confusion": self.confusion.as_dict(),
            "calibration": _as_dict(self.calibration),
            "levels": _as_dict(self.levels),
        }

    def table(self) -> str:
        """All parts, one after the other, with numbers times 100 where they are AP."""
        parts = [self._error_lines(), self._class_lines(), self._size_lines()]
        parts += [[self.levels if isinstance(self.levels, str) else self.levels.table()], [self.confusion.table()]]
        parts += [[self.thresholds.table()], [self.calibration if isinstance(self.calibration, str) else self.calibration.table()]]
        return "\n\n".join("\n".join(lines) for lines in parts if lines)

    def _error_lines(self) -> list[str]:
        counts = self.errors.counts()
        foreground, background = self.errors.foreground_iou, self.errors.background_iou
        lines = [
            f"AP at IoU {foreground:g} is {_percent(self.delta_ap['AP']).strip()}; gain in AP x 100 if one type of error were put right"
        ]
        lines.append(f"(TIDE; background below IoU {background:g}; each type alone, so the gains do not add up)")
        for name in (*ERROR_TYPES, *SPECIAL_TYPES):
            number = f"{counts[name]:>9}" if name in counts else ""
            lines.append(f"  {name.replace('_', ' '):<15} {_percent(self.delta_ap[name])}  {number}".rstrip())
        return [*lines, f"  correct {counts['correct']}, ignored {counts['ignored']} (in a crowd of their class)"]

    def _class_lines(self) -> list[str]:
        """The classes with the lowest AP first."""
        named = {name: values for name, values in self.per_class.items() if values["AP"] is not None}
        if len(named) < 2:
            return []
        worst = sorted(named, key=lambda name: named[name]["AP"] or 0.0)[:_SHOWN_CLASSES]
        width = max(len("class"), *(len(printable(name)) for name in worst))
        columns = ("AP", *ERROR_TYPES, *SPECIAL_TYPES)
        short = ("AP", "class", "local", "both", "dupl", "backg", "miss", "FP", "FN")
        lines = [f"gain by class, lowest AP first{'' if len(worst) == len(named) else f' ({len(worst)} of {len(named)})'}"]
        lines.append(f"{'class':<{width}}  " + "  ".join(f"{name:>5}" for name in short))
        return lines + [f"{printable(name):<{width}}  " + "  ".join(_percent(named[name][c]) for c in columns) for name in worst]

    def _size_lines(self) -> list[str]:
        lines = ["size      boxes    found  covered   missed  (covered: a classification or localisation error aims at it)"]
        return lines + [
            f"{size:<8}" + "".join(f" {values[key]:>{6 if key == 'boxes' else 8}}" for key in ("boxes", "found", "covered", "missed"))
            for size, values in self.sizes.items()
        ]


def error_report(
    ground_truth: dict[str, Any],
    detections: DetectionArrays,
    *,
    levels: Sequence[str | None] | None = None,
    level_order: Sequence[str] = (),
    foreground_iou: float = 0.5,
    background_iou: float = 0.1,
    max_detections: int = 100,
) -> ErrorReport:
    """Match once and make all parts. ``ground_truth`` is a COCO dict, ``levels`` the name of the level of each detection, if known.

    ``max_detections`` is per image for the errors (as in TIDE), and per image and class for the AP of single levels (as in COCO).
    Raises :class:`DataError` for input that cannot be measured.
    """
    truth = TruthArrays.of(ground_truth, [])
    overlaps = find_overlaps(truth, detections, minimum_iou=background_iou, max_detections=max_detections)
    errors = find_errors(overlaps, foreground_iou=foreground_iou, background_iou=background_iou)
    thresholds = score_thresholds(errors)
    best = thresholds.best["threshold"]
    names = levels if levels is not None else [None] * len(detections)
    try:
        reliability: Calibration | str = calibration(errors)
    except ValueError as error:
        reliability = f"no calibration: {error}"
    return ErrorReport(
        errors=errors,
        delta_ap={name: _number(value) for name, value in errors.delta_ap().items()},
        per_class=_class_gains(errors),
        sizes=found_by_size(errors),
        thresholds=thresholds,
        confusion=confusion_matrix(overlaps, score_threshold=0.0 if best is None else best, iou_threshold=foreground_iou),
        calibration=reliability,
        levels=level_table(errors, truth, detections, names, order=level_order, max_detections=max_detections),
    )


def _class_gains(errors: ErrorTable) -> dict[str, dict[str, Number]]:
    areas = errors.average_precisions()
    columns = {"AP": areas["as_is"]} | {name: areas[name] - areas["as_is"] for name in (*ERROR_TYPES, *SPECIAL_TYPES)}
    return {
        name: {column: _number(values[k]) for column, values in columns.items()} for k, name in enumerate(errors.overlaps.category_names)
    }


def _as_dict(part: Calibration | LevelTable | str) -> dict[str, Any]:
    return {"missing": part} if isinstance(part, str) else part.as_dict()


def _number(value: float | np.floating[Any]) -> Number:
    return None if math.isnan(value) else float(value)


def _percent(value: Number) -> str:
    return "    -" if value is None else f"{100 * value:5.1f}"
