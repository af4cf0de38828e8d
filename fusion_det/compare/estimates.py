"""One number of a study, for an arm or for a difference of two, with every interval that a report shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from fusion_det.compare.intervals import Interval, bca_interval, jackknife_influence, percentile_interval
from fusion_det.compare.resampling import seed_draws
from fusion_det.compare.two_sources import TwoSources


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds in 0..1 (a difference: -1..1) and what is known about its noise."""

    estimate: float
    seeds: tuple[str, ...]
    values: tuple[float, ...]
    """Of each seed, on the test set as it is."""
    interval: Interval
    """Both sources of noise, calibrated (:class:`TwoSources`); for one seed, of the images only."""
    percentile_interval: Interval
    """The plain percentiles of the hierarchical bootstrap: seeds, then images; too narrow or too wide with few seeds."""
    bca_interval: Interval | None
    """The same, corrected for bias and acceleration; only where it was asked for."""
    image_interval: Interval
    """The percentiles of the image bootstrap with these very seeds: what most papers mean, silent about other training runs."""
    seed_interval: Interval | None
    """Student's t over the seeds' values with these very images; ``None`` for one seed."""
    deviation: float
    """Standard error from both sources."""
    seed_deviation: float | None
    """Standard deviation of the seeds' values; ``None`` for one seed."""
    image_deviation: float
    """Standard deviation that the images cause in all seeds alike; for one seed, all that they cause."""
    seed_share: float
    """The seeds' part of the variance, 0 to 1."""
    p_value: float | None
    """Two-sided, of no difference, by ``interval``; not adjusted; ``None`` for one seed."""
    bootstrap_bias: float
    """The mean of the image bootstrap minus the estimate."""
    replicates: int
    """Resamples in which the number is defined."""

    def sources(self) -> TwoSources:
        """The parts that :meth:`TwoSources.interval` needs."""
        return TwoSources(self.estimate, len(self.values), (self.seed_deviation or 0.0) ** 2, self.image_deviation**2)


def estimate_of(
    values: np.ndarray,
    replicates: np.ndarray,
    seeds: Sequence[str],
    *,
    confidence: float = 0.95,
    draw_seed: int = 0,
    without_images: np.ndarray | None = None,
) -> Estimate | None:
    """The estimate from each seed's value [S] and image bootstrap [R, S], one column per seed with weights that all share.

    ``draw_seed`` is for the resampling of seeds. ``without_images``: the seeds' values without each of J groups of images [J, S], for BCa.
    ``None`` where a value is not defined, or fewer than two resamples define it.
    """
    replicates = replicates[~np.isnan(replicates).any(axis=1)]
    if np.isnan(values).any() or len(replicates) < 2:
        return None
    sources = TwoSources.of(values, replicates)
    draws = seed_draws(len(values), len(replicates), draw_seed) / len(values)
    hierarchical = (replicates * draws).sum(axis=1)
    of_images = replicates.mean(axis=1)
    one = len(values) == 1
    bca = None
    if without_images is not None:
        bca = bca_interval(hierarchical, sources.estimate, _influence(values, without_images), confidence)
    return Estimate(
        estimate=sources.estimate,
        seeds=tuple(seeds),
        values=tuple(map(float, values)),
        interval=sources.interval(confidence),
        percentile_interval=percentile_interval(hierarchical, confidence),
        bca_interval=bca,
        image_interval=percentile_interval(of_images, confidence),
        seed_interval=None if one else _paired_t(sources, confidence),
        deviation=sources.deviation,
        seed_deviation=None if one else sources.seed_variance**0.5,
        image_deviation=sources.image_variance**0.5,
        seed_share=sources.seed_share,
        p_value=None if one else sources.p_value(),
        bootstrap_bias=float(of_images.mean()) - sources.estimate,
        replicates=len(replicates),
    )


def _paired_t(sources: TwoSources, confidence: float) -> Interval:
    half = -float(stdtrit(sources.seeds - 1, (1 - confidence) / 2)) * (sources.seed_variance / sources.seeds) ** 0.5
    return Interval(sources.estimate - half, sources.estimate + half, confidence)


def _influence(values: np.ndarray, without_images: np.ndarray) -> np.ndarray:
    """Of each group of images and each seed on the mean, scaled so that the squares add up to its variance."""
    defined = without_images[~np.isnan(without_images).any(axis=1)].mean(axis=1)
    parts = [jackknife_influence(defined) / len(defined)] if len(defined) > 1 else []
    if len(values) > 1:
        without_seed = (values.sum() - values) / (len(values) - 1)
        parts.append(jackknife_influence(without_seed) / len(values))
    return np.concatenate([*parts, np.empty(0)])
