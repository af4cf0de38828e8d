"""What a study may claim: Holm's adjustment over its arms, and one word for each arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fusion_det.compare.intervals import Interval
from fusion_det.compare.power import seeds_needed
from fusion_det.compare.two_sources import TwoSources

Word = Literal["better", "worse", "same", "cannot tell", "none"]
"""``same``: within the margin; ``none``: no verdict is possible (one seed)."""
ONE_SEED = "seed noise unknown"


@dataclass(frozen=True)
class Verdict:
    """One arm against the baseline, adjusted for the number of arms."""

    word: Word
    interval: Interval
    """Of the difference, at the confidence of this arm's step in Holm's procedure: it excludes 0 exactly if Holm rejects."""
    p_value: float | None
    """Unadjusted; ``None`` for one seed."""
    adjusted_p_value: float | None
    """Holm's: to be compared with 1 - confidence."""
    within_margin: bool
    """The interval lies inside the margin; a difference can be real and too small to matter."""
    seeds_needed: int | None
    """For *cannot tell*: seeds that would find a difference as large as the margin with 80 % power; ``None``: more images are needed."""
    reason: str
    """One sentence for people, numbers times 100."""


def holm_verdicts(
    differences: Mapping[str, TwoSources], *, margin: float, confidence: float = 0.95, identical: frozenset[str] = frozenset()
) -> dict[str, Verdict]:
    """A verdict for each arm from its difference to the baseline (in 0..1, like ``margin``).

    Holm (1979, "A simple sequentially rejective multiple test procedure"): the arm with the k-th smallest p-value of m is tested at
    alpha / (m - k + 1), and after the first that fails all others fail. Arms with one seed, and arms in ``identical`` (the very predictions
    of the baseline), get no verdict and do not count.
    """
    alpha = 1 - confidence
    p_values = {arm: found.p_value() for arm, found in differences.items() if found.seeds > 1 and arm not in identical}
    verdicts, adjusted, failed_at = {}, 0.0, None
    for step, arm in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        factor = len(p_values) - step
        adjusted = max(adjusted, min(1.0, factor * p_values[arm]))
        if failed_at is None and not differences[arm].interval(1 - alpha / factor).excludes_zero():
            failed_at = factor
        verdicts[arm] = _verdict(differences[arm], p_values[arm], adjusted, margin, alpha, factor if failed_at is None else failed_at)
    for arm in differences.keys() - verdicts.keys():
        verdicts[arm] = _without_verdict(differences[arm], margin, confidence, arm in identical)
    return {arm: verdicts[arm] for arm in differences}


def false_discovery_adjusted(p_values: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg's (1995) adjusted p-values [n], for long lists such as classes."""
    order = np.argsort(p_values)
    scaled = p_values[order] * (len(p_values) / np.arange(1, len(p_values) + 1))  # the last factor is 1, so no value gets smaller
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted


def _verdict(found: TwoSources, p_value: float, adjusted: float, margin: float, alpha: float, factor: int) -> Verdict:
    interval = found.interval(1 - alpha / factor)
    within = interval.within(margin)
    span = f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f} AP"
    if interval.excludes_zero():
        word: Word = "better" if found.estimate > 0 else "worse"
        size = f", and inside the margin of {100 * margin:.2f}" if within else ""
        return Verdict(word, interval, p_value, adjusted, within, None, f"{span} excludes 0{size}")
    if within:
        return Verdict("same", interval, p_value, adjusted, True, None, f"{span} lies inside +-{100 * margin:.2f}")
    needed = _needed(found, margin, alpha / factor)
    advice = f"{needed} seeds" if needed else "more test images, more seeds alone do not do it,"
    reason = (
        f"{span} includes 0 and reaches beyond +-{100 * margin:.2f}; {advice} would find a difference of {100 * margin:.2f} (power 80 %)"
    )
    return Verdict("cannot tell", interval, p_value, adjusted, False, needed, reason)


def _needed(found: TwoSources, margin: float, alpha: float) -> int | None:
    if not margin or not found.variance:
        return None
    return seeds_needed(margin, found.seed_variance**0.5, found.image_variance**0.5, alpha=alpha)


def _without_verdict(found: TwoSources, margin: float, confidence: float, identical: bool) -> Verdict:
    interval = found.interval(confidence)
    if identical:
        reason = "the predictions are those of the baseline, one by one: did the arm's change take effect?"
    else:
        reason = f"{ONE_SEED}: one seed shows what the test images do, not what another training run would give"
    return Verdict("none", interval, None, None, interval.within(margin), None, reason)
