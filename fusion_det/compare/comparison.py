"""From the matches of all runs to the numbers of a report: estimates, differences, intervals and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fusion_det.compare.by_class import class_differences, vanished_classes
from fusion_det.compare.estimates import Estimate, estimate_of
from fusion_det.compare.replicates import METRICS, replicate_metrics
from fusion_det.compare.resampling import ImageResamples, image_groups
from fusion_det.compare.results import ClassDifference, Comparison, Vanished
from fusion_det.compare.study import Study
from fusion_det.compare.verdicts import ONE_SEED, holm_verdicts
from fusion_det.evaluation.match_table import MatchTable

DEFAULT_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
COCO_MARGIN = 0.003
"""0.3 AP: about what repeating a training run on COCO changes by itself."""
_JACKKNIFE_GROUPS = 200
_FEW_IMAGES = 50


def compare_study(
    study: Study,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    primary: str = "AP",
    margin: float = COCO_MARGIN,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    classes: bool = True,
    bca: bool = False,
    threads: int = 1,
) -> Comparison:
    """Compare every arm with the baseline.

    ``metrics`` are names of :data:`METRICS`; the verdicts are about ``primary``. ``margin`` (0..1) is the difference that does not matter.
    ``resamples`` and ``seed`` fix the bootstrap; all runs share its weights. ``classes`` adds the difference in AP of each class, ``bca``
    the BCa intervals. The time grows with runs x resamples; ``threads`` share it.
    """
    names = tuple(dict.fromkeys((primary, *metrics)))
    if unknown := set(names) - set(METRICS):
        raise ValueError(f"expected metrics among {METRICS}, got {sorted(unknown)}")
    if margin < 0 or not 0 < confidence < 1 or resamples < 2:
        raise ValueError(f"expected margin >= 0, confidence in (0, 1), resamples >= 2, got {margin}, {confidence}, {resamples}")
    plan = _Plan(
        names, classes, confidence, seed, threads, ImageResamples(study.images, resamples, seed).weights, _groups(study, seed, bca)
    )
    runs = {arm: {name: _Run.of(table, plan) for name, table in tables.items()} for arm, tables in study.arms.items()}
    arms = {arm: {metric: _of_arm(found, metric, plan) for metric in names} for arm, found in runs.items()}
    differences = {arm: {metric: _of_difference(study, runs, arm, metric, plan) for metric in names} for arm in study.others}
    identical = study.identical_to_baseline()
    sources = {arm: found.sources() for arm in study.others if (found := differences[arm][primary]) is not None}
    vanished = vanished_classes(next(iter(study.arms[study.baseline].values())), plan.weights)
    return Comparison(
        baseline=study.baseline,
        seeds={arm: tuple(tables) for arm, tables in study.arms.items()},
        primary=primary,
        margin=margin,
        confidence=confidence,
        images=study.images,
        resamples=resamples,
        resampling_seed=seed,
        arms=arms,
        differences=differences,
        verdicts=holm_verdicts(sources, margin=margin, confidence=confidence, identical=identical),
        classes={arm: _by_class(study, runs, arm, confidence) for arm in study.others if classes},
        vanished=vanished,
        warnings=tuple(_warnings(study, differences, primary, identical, vanished, resamples)),
    )


@dataclass(frozen=True, eq=False)
class _Plan:
    metrics: tuple[str, ...]
    classes: bool
    confidence: float
    seed: int
    threads: int
    weights: np.ndarray
    """int16 [R, I]."""
    groups: np.ndarray | None
    """int16 [J, I]: the images without each of J groups, for BCa."""


@dataclass(frozen=True, eq=False)
class _Run:
    """The numbers of one run."""

    value: dict[str, float]
    replicates: dict[str, np.ndarray]
    without_images: dict[str, np.ndarray] | None
    class_value: np.ndarray
    """float64 [K] AP; empty if not asked for."""
    class_replicates: np.ndarray
    """float32 [R, K]."""

    @classmethod
    def of(cls, table: MatchTable, plan: _Plan) -> _Run:
        metrics = tuple(dict.fromkeys((*plan.metrics, "AP"))) if plan.classes else plan.metrics
        point = replicate_metrics(table, metrics=metrics)
        found = replicate_metrics(table, plan.weights, metrics=metrics, threads=plan.threads)
        without = None if plan.groups is None else replicate_metrics(table, plan.groups, metrics=metrics, threads=plan.threads).summary
        return cls(
            value={name: float(point.summary[name][0]) for name in plan.metrics},
            replicates={name: found.summary[name] for name in plan.metrics},
            without_images=without,
            class_value=point.per_class["AP"][0] if plan.classes else np.empty(0),
            class_replicates=found.per_class["AP"].astype(np.float32) if plan.classes else np.empty((0, 0), np.float32),
        )


def _groups(study: Study, seed: int, bca: bool) -> np.ndarray | None:
    return image_groups(study.images, min(_JACKKNIFE_GROUPS, study.images), seed) if bca and study.images > 1 else None


def _of_arm(runs: dict[str, _Run], metric: str, plan: _Plan) -> Estimate | None:
    return _estimate(list(runs.values()), None, list(runs), metric, plan)


def _of_difference(study: Study, runs: dict[str, dict[str, _Run]], arm: str, metric: str, plan: _Plan) -> Estimate | None:
    seeds = study.common_seeds(arm)
    return _estimate([runs[arm][s] for s in seeds], [runs[study.baseline][s] for s in seeds], seeds, metric, plan)


def _estimate(ones: list[_Run], others: list[_Run] | None, seeds: list[str], metric: str, plan: _Plan) -> Estimate | None:
    """Of the mean over ``ones``, or of its paired difference to ``others``."""

    def columns(part: str) -> np.ndarray:
        mine = np.stack([getattr(run, part)[metric] for run in ones], axis=-1)
        return mine if others is None else mine - np.stack([getattr(run, part)[metric] for run in others], axis=-1)

    return estimate_of(
        columns("value"),
        columns("replicates"),
        seeds,
        confidence=plan.confidence,
        draw_seed=plan.seed,
        without_images=None if plan.groups is None else columns("without_images"),
    )


def _by_class(study: Study, runs: dict[str, dict[str, _Run]], arm: str, confidence: float) -> tuple[ClassDifference, ...]:
    seeds = study.common_seeds(arm)
    mine, base = ([runs[name][s] for s in seeds] for name in (arm, study.baseline))
    return class_differences(
        study.arms[arm][seeds[0]],
        np.stack([run.class_value for run in mine], axis=-1),
        np.stack([run.class_value for run in base], axis=-1),
        np.stack([one.class_replicates - other.class_replicates for one, other in zip(mine, base, strict=True)], axis=-1),
        confidence=confidence,
    )


def _warnings(
    study: Study,
    differences: dict[str, dict[str, Estimate | None]],
    primary: str,
    identical: frozenset[str],
    vanished: Vanished,
    resamples: int,
) -> list[str]:
    lines = []
    for arm in study.others:
        seeds, own = study.common_seeds(arm), study.arms[arm]
        lone = dict.fromkeys(s for s in (*study.arms[study.baseline], *own) if s not in seeds)
        if lone:
            lines.append(f"arm {arm}: compared on the common seeds {', '.join(seeds)}; left out: {', '.join(lone)}")
        if differences[arm][primary] is None:
            lines.append(f"arm {arm}: {primary} is not defined on this data")
        if arm in identical:
            lines.append(f"arm {arm}: its predictions are those of the baseline, one by one; did the change take effect?")
    if any(len(study.common_seeds(arm)) == 1 for arm in study.others):
        lines.append(f"{ONE_SEED}: with one seed, intervals show the noise of the test images only and there is no verdict")
    if study.images < _FEW_IMAGES:
        lines.append(f"only {study.images} test images: a bootstrap of fewer than {_FEW_IMAGES} tends to be too sure of itself")
    silent = [f"{arm} seed {s}" for arm, runs in study.arms.items() for s, table in runs.items() if not len(table)]
    if silent:
        lines.append(f"no detections, so every number is 0: {', '.join(silent)}")
    if vanished.resamples:
        worst = ", ".join(f"{name} ({count})" for name, count in sorted(vanished.classes.items(), key=lambda item: -item[1])[:3])
        lines.append(
            f"classes without boxes in a resample are left out of it: {vanished.resamples} of {resamples} resamples, most: {worst}"
        )
    return lines
