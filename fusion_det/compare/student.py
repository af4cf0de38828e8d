"""Tails and quantiles of the normal and of Student's t distribution with whole degrees of freedom; NumPy has none."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

_NORMAL = NormalDist()
_erfc = np.vectorize(math.erfc, otypes=[float])


def normal_quantile(probability: float) -> float:
    """x with P(Z <= x) = ``probability``."""
    return _NORMAL.inv_cdf(probability)


def normal_tail(x: np.ndarray | float) -> np.ndarray:
    """P(Z > x), float64 of the shape of ``x``."""
    return 0.5 * _erfc(np.asarray(x, dtype=float) / math.sqrt(2)) if np.size(x) else np.zeros(np.shape(x))


def t_tail(x: np.ndarray | float, degrees: int) -> np.ndarray:
    """P(T > x) for Student's t with ``degrees`` >= 1, float64 of the shape of ``x``.

    The finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4; absolute error about 1e-15.
    """
    if degrees < 1:
        raise ValueError(f"degrees: expected at least 1, got {degrees}")
    angle = np.arctan(np.asarray(x, dtype=float) / math.sqrt(degrees))
    sine, cosine = np.sin(angle), np.cos(angle)
    odd = degrees % 2
    term = cosine if odd else np.ones_like(angle)
    total = np.zeros_like(angle)
    for k in range(degrees // 2):
        total = total + term
        step = (2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2)
        term = term * step * cosine**2
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total  # P(|T| < |x|), with the sign of x
    return 0.5 * (1 - within)


def t_quantile(tail: np.ndarray | float, degrees: int) -> np.ndarray:
    """x >= 0 with P(T > x) = ``tail``, for tails in (0, 0.5]; by bisection."""
    tail = np.asarray(tail, dtype=float)
    low = np.zeros_like(tail)
    # The tail of t is at most that of Cauchy's law (one degree of freedom), apart from rounding.
    high = np.maximum(1 / np.tan(np.pi * np.minimum(tail, 0.5)), 0) + 1.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        above = t_tail(middle, degrees) > tail
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return 0.5 * (low + high)
