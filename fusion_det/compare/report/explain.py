"""What explains a difference: AP by IoU, types of errors and pyramid levels of every arm, measured from the predictions again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fusion_det.compare.estimates import estimate_of
from fusion_det.compare.intervals import Interval
from fusion_det.compare.outcome import Outcome
from fusion_det.compare.resampling import ImageResamples
from fusion_det.compare.run_record import RunRecord
from fusion_det.evaluation.array_metrics import match_checked
from fusion_det.evaluation.error_types import ERROR_TYPES, ErrorTable, find_errors
from fusion_det.evaluation.levels import SIZES, LevelTable, level_names, level_table
from fusion_det.evaluation.overlaps import find_overlaps
from fusion_det.evaluation.predictions import DetectionArrays, read_predictions
from fusion_det.evaluation.truth_arrays import TruthArrays

RESAMPLES = 200
_MOST_DETECTIONS, _MOST_RUNS = 300_000, 30
"""In all: with more the intervals of the error types would take minutes (1 to 4 s per run here), so they are left out."""
_TIDE_DETECTIONS = 100
_BACKGROUND_IOU = 0.1


@dataclass(frozen=True)
class Gain:
    """AP that would be gained, in 0..1: the mean over seeds, with its interval if that was computed."""

    mean: float
    interval: Interval | None


@dataclass(frozen=True)
class LevelMeans:
    """The levels of one arm: means over its seeds."""

    levels: tuple[str, ...]
    alone: np.ndarray
    """float64 [L, 3]: AP of each level alone on small, medium and large boxes; NaN where it is not defined."""
    found: np.ndarray
    """float64 [L, 3]: share of the boxes of a size that a detection of the level found."""


@dataclass(frozen=True)
class Explained:
    """Everything by arm."""

    iou: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)
    """By arm and IoU threshold: AP of each seed."""
    ap50: dict[str, Gain] = field(default_factory=dict)
    """AP at IoU 0.5, as the error types count it."""
    gains: dict[str, dict[str, Gain]] = field(default_factory=dict)
    """By arm and type of error."""
    gain_differences: dict[str, dict[str, Gain]] = field(default_factory=dict)
    """Arm minus baseline over the seeds that both have."""
    resamples: int = 0
    """Behind the intervals; 0: there are none."""
    levels: dict[str, LevelMeans] = field(default_factory=dict)
    """Only arms whose files tell levels."""


def explain(outcome: Outcome) -> Explained:
    """Match every run of ``outcome`` once more; nothing if there was no comparison. Raises ``DataError`` as the comparison would."""
    if outcome.comparison is None or not outcome.ground_truth:
        return Explained()
    truth = TruthArrays.of(dict(outcome.ground_truth), [])
    found = {arm: [_Run.of(run, truth) for run in outcome.of_arm(arm)] for arm in outcome.comparison.arms}
    sizes = [run.detections for runs in found.values() for run in runs]
    small = sum(sizes) <= _MOST_DETECTIONS and len(sizes) <= _MOST_RUNS
    images, seed = outcome.comparison.images, outcome.comparison.resampling_seed
    weights = ImageResamples(images, RESAMPLES, seed).weights if small and images > 1 else None
    for runs in found.values():
        for run in runs:
            run.measure(weights)
    base = {run.seed: run for run in found[outcome.baseline]}
    confidence = outcome.comparison.confidence
    gains = {arm: _gains(runs, None, confidence) for arm, runs in found.items()}
    pairs = {arm: [run for run in runs if run.seed in base] for arm, runs in found.items() if arm != outcome.baseline}
    return Explained(
        iou={arm: {name: tuple(run.iou[name] for run in runs) for name in runs[0].iou} for arm, runs in found.items()},
        ap50={arm: values["AP"] for arm, values in gains.items() if "AP" in values},
        gains={arm: {name: gain for name, gain in values.items() if name != "AP"} for arm, values in gains.items()},
        gain_differences={arm: _gains(runs, [base[run.seed] for run in runs], confidence) for arm, runs in pairs.items()},
        resamples=0 if weights is None else RESAMPLES,
        levels={arm: means for arm, runs in found.items() if (means := _level_means([run.levels for run in runs])) is not None},
    )


class _Run:
    """One run while it is looked at."""

    def __init__(self, seed: int, iou: dict[str, float], errors: ErrorTable, levels: LevelTable | str) -> None:
        self.seed, self.iou, self.levels = seed, iou, levels
        self.errors: ErrorTable | None = errors
        self.detections = len(errors.kind)
        self.value: dict[str, float] = {}
        self.replicates: dict[str, np.ndarray] = {}

    @classmethod
    def of(cls, run: RunRecord, truth: TruthArrays) -> _Run:
        records = read_predictions(run.predictions)
        detections = DetectionArrays.from_results(records, where=str(run.predictions))
        limit = run.config.get("eval", {}).get("max_detections", 100)
        table = match_checked(truth, detections, max_detections=limit)
        precision, _ = table.precision_recall()
        iou = {f"{t:.2f}": _mean_ap(precision[i, :, :, 0]) for i, t in enumerate(table.iou_thresholds)}
        errors = find_errors(find_overlaps(truth, detections, minimum_iou=_BACKGROUND_IOU, max_detections=_TIDE_DETECTIONS))
        return cls(run.seed, iou, errors, level_table(errors, truth, detections, level_names(records), max_detections=limit))

    def measure(self, weights: np.ndarray | None) -> None:
        """The gains, and those of resamples; then the matches are let go."""
        assert self.errors is not None
        self.value = self.errors.delta_ap()
        self.replicates = {} if weights is None else self.errors.replicates(weights)
        self.errors = None


def _mean_ap(precision: np.ndarray) -> float:
    """COCO's mean over recall points and classes of precision [101, K]; -1 is undefined."""
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else float("nan")


def _gains(runs: Sequence[_Run], others: Sequence[_Run] | None, confidence: float) -> dict[str, Gain]:
    """Means over ``runs``, or over their differences to ``others``, for all that is defined."""
    found = {}
    for name in ("AP", *ERROR_TYPES):
        values = np.array([run.value[name] for run in runs])
        if others is not None:
            values = values - [run.value[name] for run in others]
        if not len(values) or np.isnan(values).any():
            continue
        found[name] = Gain(float(values.mean()), _interval(runs, others, name, values, confidence))
    return found


def _interval(runs: Sequence[_Run], others: Sequence[_Run] | None, name: str, values: np.ndarray, confidence: float) -> Interval | None:
    """Of seeds and images, as for AP."""
    if not runs[0].replicates:
        return None
    replicates = np.stack([run.replicates[name] for run in runs], axis=-1)
    if others is not None:
        replicates = replicates - np.stack([run.replicates[name] for run in others], axis=-1)
    estimate = estimate_of(values, replicates, [str(run.seed) for run in runs], confidence=confidence)
    return None if estimate is None else estimate.interval


def _level_means(tables: Sequence[LevelTable | str]) -> LevelMeans | None:
    known = [table for table in tables if not isinstance(table, str)]
    if len(known) < len(tables) or not known:
        return None
    names = tuple(dict.fromkeys(name for table in known for name in table.levels))
    alone, found = (np.full((len(known), len(names), len(SIZES)), np.nan) for _ in range(2))
    for i, table in enumerate(known):
        for j, name in enumerate(table.levels):
            place = names.index(name)
            numbers: dict[str, Any] = table.alone[j]
            alone[i, place] = [np.nan if numbers[key] is None else numbers[key] for key in ("APs", "APm", "APl")]
            found[i, place] = np.where(table.boxes > 0, table.found[j] / np.maximum(table.boxes, 1), np.nan)
    return LevelMeans(names, _mean(alone), _mean(found))


def _mean(values: np.ndarray) -> np.ndarray:
    """Over the first axis of what is defined."""
    number = (~np.isnan(values)).sum(axis=0)
    return np.where(number > 0, np.nansum(values, axis=0) / np.maximum(number, 1), np.nan)
