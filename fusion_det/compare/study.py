"""The runs of a study: arms x seeds, each with its matches, on the very same data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusion_det.errors import DataError, raise_all
from fusion_det.evaluation.match_table import MatchTable

_SETTINGS = (
    ("image_ids", "the images", "evaluate all runs on the same images"),
    ("category_ids", "the category ids", "evaluate all runs on the same annotation file"),
    ("category_names", "the class names", "evaluate all runs on the same annotation file"),
    ("truth_image", "the ground-truth boxes", "evaluate all runs on the same annotation file"),
    ("truth_class", "the ground-truth boxes", "evaluate all runs on the same annotation file"),
    ("truth_counted", "the ground-truth boxes", "evaluate all runs on the same annotation file"),
    ("max_detections", "max_detections", "evaluate all runs with the same settings"),
    ("iou_thresholds", "the IoU thresholds", "evaluate all runs with the same settings"),
    ("area_names", "the area ranges", "evaluate all runs with the same settings"),
)


@dataclass(frozen=True, eq=False)
class Study:
    """Arms by name, each with its runs by seed; runs of one seed share what the arms do not change.

    Raises :class:`DataError`, one line per fault, for runs that differ in images, classes, ground truth or settings, for an arm without a
    seed in common with the baseline, and for two seeds of one arm with the same predictions.
    """

    arms: Mapping[str, Mapping[str, MatchTable]]
    baseline: str

    def __post_init__(self) -> None:
        if self.baseline not in self.arms:
            raise ValueError(f"expected the baseline to be one of {list(self.arms)}, got {self.baseline!r}")
        empty = [name for name, runs in self.arms.items() if not runs]
        raise_all([DataError("has no finished run", where=f"arm {name}", mend="leave it out or run it again") for name in empty])
        raise_all(self._differing_settings())
        raise_all([*self._repeated_runs(), *self._without_common_seed()])

    @property
    def others(self) -> list[str]:
        """The arms that are not the baseline."""
        return [name for name in self.arms if name != self.baseline]

    @property
    def images(self) -> int:
        """Number of images."""
        return len(next(iter(self.arms[self.baseline].values())).image_ids)

    def common_seeds(self, arm: str) -> list[str]:
        """Seeds that both the baseline and ``arm`` have, in the order of the baseline."""
        return [seed for seed in self.arms[self.baseline] if seed in self.arms[arm]]

    def identical_to_baseline(self) -> frozenset[str]:
        """Arms whose predictions are the baseline's in all common seeds."""
        base = self.arms[self.baseline]
        same = (name for name in self.others if all(_same_predictions(self.arms[name][s], base[s]) for s in self.common_seeds(name)))
        return frozenset(same)

    def _differing_settings(self) -> list[DataError]:
        runs = [(f"{arm}, seed {seed}", table) for arm, seeds in self.arms.items() for seed, table in seeds.items()]
        (first_name, first), *rest = runs
        faults = []
        for name, table in rest:
            for field, words, mend in _SETTINGS:
                if not _equal(getattr(table, field), getattr(first, field)):
                    faults.append(DataError(f"{words} are not those of {first_name}, so nothing can be compared", where=name, mend=mend))
                    break
        return faults

    def _repeated_runs(self) -> list[DataError]:
        faults = []
        for arm, runs in self.arms.items():
            seeds = list(runs)
            for i, seed in enumerate(seeds):
                twin = next((other for other in seeds[:i] if len(runs[seed]) and _same_predictions(runs[seed], runs[other])), None)
                if twin is not None:
                    what = f"seeds {twin} and {seed} have the very same predictions"
                    faults.append(DataError(what, where=f"arm {arm}", mend="give each training run once; check that the seed was used"))
        return faults

    def _without_common_seed(self) -> list[DataError]:
        return [
            DataError(f"no seed in common with the baseline {self.baseline}", where=f"arm {name}", mend="train both with the same seeds")
            for name in self.others
            if not self.common_seeds(name)
        ]


def _same_predictions(one: MatchTable, other: MatchTable) -> bool:
    return all(
        _equal(getattr(one, name), getattr(other, name)) for name in ("class_starts", "image", "score", "matched_bits", "ignored_bits")
    )


def _equal(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else bool(one == other)
