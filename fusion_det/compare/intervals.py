"""Intervals from bootstrap replicates: percentile, and BCa (Efron 1987, "Better bootstrap confidence intervals", JASA 82)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri


@dataclass(frozen=True)
class Interval:
    """``low`` to ``high`` at ``confidence``, in the unit of what it is about."""

    low: float
    high: float
    confidence: float

    def excludes_zero(self) -> bool:
        """Whether both ends lie on one side of zero."""
        return self.low > 0 or self.high < 0

    def within(self, margin: float) -> bool:
        """Whether it lies inside -margin to +margin."""
        return self.low > -margin and self.high < margin


def percentile_interval(replicates: np.ndarray, confidence: float) -> Interval:
    """The middle ``confidence`` of ``replicates`` [R]."""
    low, high = np.quantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high), confidence)


def bca_interval(replicates: np.ndarray, estimate: float, influence: np.ndarray, confidence: float) -> Interval:
    """Percentiles of ``replicates`` [R], moved for bias and for a spread that changes with the value.

    ``influence`` [J]: how much each of J units (images, groups of images, seeds) raises the estimate, from a jackknife. Falls back on plain
    percentiles where all replicates lie on one side of the estimate or nothing has influence.
    """
    below = float(np.mean(replicates < estimate) + 0.5 * np.mean(replicates == estimate))
    spread = float(np.sum(influence**2))
    if not 0 < below < 1 or spread == 0:
        return percentile_interval(replicates, confidence)
    bias = float(ndtri(below))
    acceleration = float(np.sum(influence**3)) / (6 * spread**1.5)
    ends = []
    for probability in ((1 - confidence) / 2, (1 + confidence) / 2):
        moved = bias + float(ndtri(probability))
        corrected = bias + moved / (1 - acceleration * moved)
        ends.append(float(np.quantile(replicates, float(ndtr(corrected)))))
    return Interval(ends[0], ends[1], confidence)


def jackknife_influence(without: np.ndarray) -> np.ndarray:
    """Influence [J] of each of J units from the estimates ``without`` each of them."""
    return (len(without) - 1) * (without.mean() - without)
