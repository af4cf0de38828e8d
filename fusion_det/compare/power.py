"""How many seeds a comparison needs: power of the two-source interval under normal noise, computed and not simulated."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import ndtr

from fusion_det.compare.two_sources import critical_value

_MOST_SEEDS = 1000


def detection_power(difference: float, seeds: int, seed_deviation: float, image_deviation: float = 0.0, *, alpha: float = 0.05) -> float:
    """Probability of the right verdict, *better* or *worse*, when the true difference is ``difference``.

    ``seed_deviation``: standard deviation of one seed's paired difference on a fixed test set; ``image_deviation``: what the images change
    for all seeds alike (:class:`TwoSources` measures both). All in one unit. ``alpha`` is the two-sided error; divide it by the number of
    arms for a study of several.
    """
    shift = abs(difference)
    return _expected(lambda half, total: ndtr((shift - half) / total), seeds, seed_deviation, image_deviation, alpha)


def sameness_power(margin: float, seeds: int, seed_deviation: float, image_deviation: float = 0.0, *, alpha: float = 0.05) -> float:
    """Probability of the verdict *same within the margin* when there is no difference; arguments as :func:`detection_power`."""

    def inside(half: np.ndarray, total: float) -> np.ndarray:
        room = margin - half
        return np.where(room > 0, 1 - 2 * ndtr(-np.maximum(room, 0) / total), 0.0)

    return _expected(inside, seeds, seed_deviation, image_deviation, alpha)


def seeds_needed(
    difference: float, seed_deviation: float, image_deviation: float = 0.0, *, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """The smallest number of seeds that finds ``difference`` with at least ``power``; ``None`` if 1000 do not.

    ``None`` mostly means that the images alone leave too much noise: more of them are needed, not more seeds.
    """
    if not difference:
        return None
    low, high = 1, 2
    while detection_power(difference, high, seed_deviation, image_deviation, alpha=alpha) < power:
        low, high = high, 2 * high
        if low >= _MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = detection_power(difference, middle, seed_deviation, image_deviation, alpha=alpha) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high if high <= _MOST_SEEDS else None


def detectable_difference(
    seeds: int, seed_deviation: float, image_deviation: float = 0.0, *, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The smallest true difference that ``seeds`` seeds find with ``power``, in the unit of the deviations."""
    high = math.hypot(seed_deviation, image_deviation)
    if not high:
        return 0.0
    low = 0.0
    while detection_power(high, seeds, seed_deviation, image_deviation, alpha=alpha) < power:
        low, high = high, 2 * high
    for _ in range(60):
        middle = 0.5 * (low + high)
        enough = detection_power(middle, seeds, seed_deviation, image_deviation, alpha=alpha) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def _expected(
    chance: Callable[[np.ndarray, float], np.ndarray], seeds: int, seed_deviation: float, image_deviation: float, alpha: float
) -> float:
    """``chance(half width [n], true standard error)`` averaged over the seed variances that a study may happen to measure."""
    if seeds < 2:
        raise ValueError(f"seeds: expected at least 2, got {seeds}; the noise of one seed is unknown")
    if seed_deviation < 0 or image_deviation < 0 or not 0 < alpha < 1:
        raise ValueError(f"expected deviations >= 0 and alpha in (0, 1), got {seed_deviation}, {image_deviation}, {alpha}")
    total = math.sqrt(seed_deviation**2 / seeds + image_deviation**2)
    if total == 0:
        raise ValueError("expected some noise, got two deviations of 0")
    degrees = seeds - 1
    ratio = np.linspace(0, math.sqrt(degrees) + 9, 3001)[1:]  # measured over true deviation, times sqrt(degrees): a chi variable
    log_density = (degrees - 1) * np.log(ratio) - ratio**2 / 2
    density = np.exp(log_density - log_density.max())
    measured = seed_deviation**2 / seeds * ratio**2 / degrees
    variance = measured + image_deviation**2
    half = critical_value(alpha / 2, measured / variance, seeds) * np.sqrt(variance)
    return float((density * chance(half, total)).sum() / density.sum())
