"""Differences class by class, and classes that a resample of the images happens to miss."""

from __future__ import annotations

import numpy as np

from fusion_det.compare.results import ClassDifference, Vanished
from fusion_det.compare.two_sources import TwoSources, p_values
from fusion_det.compare.verdicts import false_discovery_adjusted
from fusion_det.evaluation.match_table import MatchTable


def class_differences(
    table: MatchTable, arm: np.ndarray, baseline: np.ndarray, replicates: np.ndarray, *, confidence: float
) -> tuple[ClassDifference, ...]:
    """AP of ``arm`` minus ``baseline``, both [K, S] for K classes and S paired seeds, with the image bootstrap of it [R, K, S].

    Classes without boxes are left out; so are those that fewer than two resamples contain.
    """
    boxes = np.bincount(table.truth_class, table.truth_counted[0], len(table.category_ids)).astype(int)
    found: dict[int, TwoSources] = {}
    for k in np.flatnonzero(boxes):
        defined = replicates[~np.isnan(replicates[:, k]).any(axis=1), k]
        if len(defined) > 1:
            found[int(k)] = TwoSources.of(arm[k] - baseline[k], defined.astype(np.float64))
    p = p_values_of(list(found.values()))
    adjusted = p if p is None else false_discovery_adjusted(p)
    return tuple(
        ClassDifference(
            category_id=int(table.category_ids[k]),
            name=table.category_names[k],
            boxes=int(boxes[k]),
            baseline=float(baseline[k].mean()),
            arm=float(arm[k].mean()),
            difference=source.estimate,
            interval=source.interval(confidence),
            p_value=None if p is None else float(p[i]),
            adjusted_p_value=None if adjusted is None else float(adjusted[i]),
        )
        for i, (k, source) in enumerate(found.items())
    )


def p_values_of(sources: list[TwoSources]) -> np.ndarray | None:
    """The p-values of estimates with the same number of seeds, together; ``None`` for one seed or no estimate."""
    if not sources or sources[0].seeds < 2:
        return None
    deviation = np.array([source.deviation for source in sources])
    size = np.abs([source.estimate for source in sources])
    distance = np.divide(size, deviation, out=np.where(size > 0, 1e300, 0.0), where=deviation > 0)
    return p_values(distance, np.array([source.seed_share for source in sources]), sources[0].seeds)


def vanished_classes(table: MatchTable, weights: np.ndarray) -> Vanished:
    """The classes with boxes that have none in some of the resamples ``weights`` [R, I]."""
    counted = table.truth_counted[0]
    kind, image = table.truth_class[counted], table.truth_image[counted]
    missing: dict[str, int] = {}
    anywhere = np.zeros(len(weights), dtype=bool)
    for k in np.unique(kind):
        absent = ~weights[:, np.unique(image[kind == k])].any(axis=1)
        anywhere |= absent
        if absent.any():
            name = table.category_names[k]
            missing[name if name not in missing else f"{name} ({table.category_ids[k]})"] = int(absent.sum())
    return Vanished(int(anywhere.sum()), missing)
