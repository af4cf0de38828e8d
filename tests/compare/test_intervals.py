"""Distributions, bootstrap intervals and the interval from two sources of noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr

from fusion_det.compare.estimates import estimate_of
from fusion_det.compare.intervals import Interval, bca_interval, jackknife_influence, percentile_interval
from fusion_det.compare.power import detection_power
from fusion_det.compare.two_sources import TwoSources, critical_value, p_values


def test_percentiles():
    found = percentile_interval(np.arange(1001.0), 0.9)
    assert (found.low, found.high, found.confidence) == pytest.approx((50, 950, 0.9))


def test_excludes_zero_and_within():
    assert Interval(0.1, 0.2, 0.95).excludes_zero()
    assert Interval(-0.2, -0.1, 0.95).excludes_zero()
    assert not Interval(-0.1, 0.2, 0.95).excludes_zero()
    assert Interval(-0.1, 0.2, 0.95).within(0.3)
    assert not Interval(-0.1, 0.2, 0.95).within(0.2)


def test_bca_is_the_percentile_interval_without_bias_or_skew():
    values = np.random.default_rng(0).standard_normal(100_001)
    values -= np.median(values)
    found = bca_interval(values, 0.0, np.array([-1.0, 1.0]), 0.95)
    plain = percentile_interval(values, 0.95)
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=1e-3)


def test_bca_follows_the_skew_of_a_mean():
    """Means of 20 exponential numbers: both ends move to the right, and fewer intervals end below the truth."""
    rng = np.random.default_rng(1)
    too_low, moved = np.zeros(2), []
    for _ in range(200):
        sample = rng.exponential(1.0, 20)
        means = rng.choice(sample, (500, 20)).mean(axis=1)
        influence = jackknife_influence((sample.sum() - sample) / 19) / 20
        bca, plain = bca_interval(means, sample.mean(), influence, 0.95), percentile_interval(means, 0.95)
        moved.append((bca.low - plain.low, bca.high - plain.high))
        too_low += [bca.high < 1, plain.high < 1]
    assert too_low[0] < too_low[1]
    assert np.mean(moved, axis=0).min() > 0


def test_bca_acceleration_by_hand():
    """z0 = 0 and a = sum(l^3) / (6 sum(l^2)^1.5): the ends move to Phi(z / (1 - a z))."""
    values = np.linspace(-1, 1, 200_001)
    influence = np.array([2.0, -1.0, -1.0])
    a = 6 / (6 * 6**1.5)
    expected = [2 * float(ndtr(z / (1 - a * z))) - 1 for z in (-1.959963985, 1.959963985)]
    found = bca_interval(values, 0.0, influence, 0.95)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-4)


def test_influence_of_a_mean_is_the_distance_from_it():
    sample = np.array([1.0, 2.0, 6.0])
    assert jackknife_influence((sample.sum() - sample) / 2) == pytest.approx(sample - 3)


def test_two_sources_by_hand():
    """Two seeds: variance 2 between them; the image bootstrap moves both by the same -1, 0, 1 and each by its own noise."""
    common, own = np.array([-1.0, 0.0, 1.0, -1.0, 0.0, 1.0]), np.array([1.0, -2.0, 1.0, -1.0, 2.0, -1.0])
    found = TwoSources.of(np.array([3.0, 5.0]), np.stack([common + own, common - own], axis=1))
    # Covariance: (4 - 12) / 5 < 0, as own noise is opposite here; a variance is not negative.
    assert (found.estimate, found.seed_variance, found.image_variance) == (4.0, 2.0, 0.0)
    shared = TwoSources.of(np.array([3.0, 5.0]), np.stack([common, 2 * common], axis=1))
    assert shared.image_variance == pytest.approx(2 * 4 / 5)
    assert shared.variance == pytest.approx(2 / 2 + 8 / 5)
    assert shared.seed_share == pytest.approx(1 / 2.6)


def test_only_seeds_is_students_t_and_only_images_is_normal():
    seeds = TwoSources(0.5, 3, 0.03, 0.0).interval(0.95)
    assert seeds.high - 0.5 == pytest.approx(4.3026527 * 0.1)
    images = TwoSources(0.5, 3, 0.0, 0.01).interval(0.95)
    assert images.high - 0.5 == pytest.approx(1.959963985 * 0.1)
    one = TwoSources(0.5, 1, 0.0, 0.01).interval(0.95)
    assert one == images


@pytest.mark.parametrize(("seeds", "lowest", "highest"), [(2, 0.93, 0.972), (3, 0.945, 0.966), (5, 0.949, 0.96), (10, 0.949, 0.956)])
def test_coverage_under_normal_noise_for_every_mixture(seeds, lowest, highest):
    """Computed, not simulated: 1 - 2 x the chance to be found better without a difference."""
    shares = np.linspace(0.001, 1, 41)
    coverage = [1 - 2 * detection_power(0, seeds, (seeds * share) ** 0.5, (1 - share) ** 0.5) for share in shares]
    assert lowest < min(coverage)
    assert max(coverage) < highest


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_p_value_is_the_confidence_at_which_the_interval_touches_zero(seeds):
    for share in (0.0, 0.4, 1.0):
        for estimate in (0.3, -2.0, 5.0):
            found = TwoSources(estimate, seeds, share * seeds, 1 - share)
            touching = found.interval(1 - found.p_value())
            assert min(abs(touching.low), abs(touching.high)) < 2e-3
    assert TwoSources(0.0, 3, 1.0, 1.0).p_value() == 1
    assert TwoSources(0.1, 3, 0.0, 0.0).p_value() == 0
    assert p_values(np.array([0.0, 1e9]), np.array([1.0, 0.0]), 3) == pytest.approx([1.0, 0.0], abs=1e-13)


def test_critical_value_grows_with_the_seeds_share():
    values = critical_value(0.025, np.linspace(0, 1, 20), 3)
    assert (np.diff(values) > 0).all()


def test_simulated_normal_studies_are_covered():
    """Seed, image and common noise of known size: the variance is unbiased and 95 % is 95 %."""
    rng = np.random.default_rng(2)
    studies, seeds, images = 500, 3, 60
    inside, variances, estimates = 0, [], []
    for _ in range(studies):
        values = 0.1 * rng.standard_normal((seeds, 1)) + rng.standard_normal((1, images)) * 1.0 + rng.standard_normal((seeds, images)) * 1.5
        weights = rng.multinomial(images, np.full(images, 1 / images), size=100) / images
        found = TwoSources.of(values.mean(axis=1), weights @ values.T)
        interval = found.interval(0.95)
        inside += interval.low <= 0 <= interval.high
        variances.append(found.variance)
        estimates.append(found.estimate)
    assert 0.93 <= inside / studies <= 0.98
    assert np.mean(variances) == pytest.approx(0.01 / 3 + 1 / images + 2.25 / images / 3, rel=0.1)
    assert np.mean(variances) == pytest.approx(np.var(estimates), rel=0.2)


def test_estimate_of_one_seed_says_what_it_does_not_know():
    replicates = np.random.default_rng(0).normal(0.4, 0.01, (500, 1))
    found = estimate_of(np.array([0.4]), replicates, ["0"])
    assert found is not None
    assert (found.seed_deviation, found.seed_interval, found.p_value) == (None, None, None)
    assert found.interval.high - found.interval.low == pytest.approx(2 * 1.96 * replicates.std(ddof=1), rel=1e-4)
    assert found.percentile_interval == found.image_interval


def test_undefined_numbers_give_no_estimate_and_undefined_resamples_are_counted():
    replicates = np.random.default_rng(0).normal(0.4, 0.01, (50, 2))
    assert estimate_of(np.array([0.4, np.nan]), replicates, ["0", "1"]) is None
    replicates[:20, 0] = np.nan
    found = estimate_of(np.array([0.4, 0.5]), replicates, ["0", "1"])
    assert found is not None
    assert found.replicates == 30
    assert estimate_of(np.array([0.4, 0.5]), np.full((50, 2), np.nan), ["0", "1"]) is None
