"""The bootstrap against the list of all resamples that there are, each evaluated by pycocotools on real copies of the images."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from comparison_sets import random_detections, random_truth, resampled_by_hand

from fusion_det.compare.estimates import estimate_of
from fusion_det.compare.replicates import replicate_metrics
from fusion_det.compare.resampling import ImageResamples, image_groups, seed_draws
from fusion_det.compare.two_sources import TwoSources
from fusion_det.evaluation.array_metrics import match

IMAGES, SEEDS = 3, 2


@pytest.fixture(scope="module")
def exact() -> dict:
    """Two arms with two seeds on three images: AP of every run under every one of the 27 equally likely resamples."""
    truth = random_truth(np.random.default_rng(5), images=IMAGES, classes=1, boxes=6, crowds=0)
    runs = [random_detections(np.random.default_rng(10 + run), truth, recall=0.5 + 0.08 * run, false=8) for run in range(2 * SEEDS)]
    draws = [np.bincount(draw, minlength=IMAGES) for draw in product(range(IMAGES), repeat=IMAGES)]
    ap = np.array([[resampled_by_hand(truth, run, weights)["AP"] for run in runs] for weights in draws], dtype=float)
    return {"tables": [match(truth, run) for run in runs], "draws": draws, "ap": ap, "difference": ap[:, SEEDS:] - ap[:, :SEEDS]}


def test_every_resample_has_pycocotools_ap(exact):
    for run, table in enumerate(exact["tables"]):
        found = replicate_metrics(table, np.array(exact["draws"])).summary["AP"]
        assert np.abs(found - exact["ap"][:, run]).max() <= 1e-12


def test_resamples_are_drawn_as_often_as_they_should():
    count = 20_000
    weights = ImageResamples(IMAGES, count, 0).weights
    kinds, found = np.unique(weights, axis=0, return_counts=True)
    expected = {(3, 0, 0): 1 / 27, (2, 1, 0): 3 / 27, (1, 1, 1): 6 / 27}
    share = np.array([expected[tuple(sorted(kind, reverse=True))] for kind in kinds.tolist()])
    assert len(kinds) == 10
    assert np.sum((found - count * share) ** 2 / (count * share)) < 27.9  # chi-squared with 9 degrees of freedom, 0.1 %
    kinds, found = np.unique(seed_draws(SEEDS, count, 0), axis=0, return_counts=True)
    assert kinds.tolist() == [[0, 2], [1, 1], [2, 0]]
    assert np.abs(found / count - [0.25, 0.5, 0.25]).max() < 0.015


def test_hierarchical_bootstrap_has_the_exact_distribution(exact):
    """Mean, spread and the chance to be below each value, over all 27 x 4 pairs of resamples of images and seeds."""
    count = 20_000
    draws = np.array([np.bincount(draw, minlength=SEEDS) / SEEDS for draw in product(range(SEEDS), repeat=SEEDS)])
    every = np.sort((exact["difference"] @ draws.T).ravel())
    weights = ImageResamples(IMAGES, count, 1).weights
    runs = np.stack([replicate_metrics(table, weights).summary["AP"] for table in exact["tables"]], axis=-1)
    replicates = runs[:, SEEDS:] - runs[:, :SEEDS]
    hierarchical = (replicates * seed_draws(SEEDS, count, 1) / SEEDS).sum(axis=1)
    assert hierarchical.mean() == pytest.approx(every.mean(), abs=5 * every.std() / count**0.5)
    assert hierarchical.std() == pytest.approx(every.std(), rel=0.03)
    below = [np.mean(hierarchical <= value + 1e-9) - np.mean(every <= value + 1e-9) for value in every]
    assert np.abs(below).max() < 1.63 / count**0.5  # Kolmogorov and Smirnov, 1 %

    found = estimate_of(exact["difference"][draws_of_ones(exact)], replicates, ["0", "1"], draw_seed=1)
    assert found is not None
    low, high = np.quantile(every, [0.025, 0.975])
    assert found.percentile_interval.low == pytest.approx(low, abs=0.02)
    assert found.percentile_interval.high == pytest.approx(high, abs=0.02)
    image_low, image_high = np.quantile(exact["difference"].mean(axis=1), [0.025, 0.975], method="inverted_cdf")
    assert (found.image_interval.low, found.image_interval.high) == pytest.approx((image_low, image_high), abs=1e-12)


def draws_of_ones(exact: dict) -> int:
    return next(i for i, draw in enumerate(exact["draws"]) if (draw == 1).all())


def test_image_variance_is_the_exact_covariance_between_seeds(exact):
    weights = ImageResamples(IMAGES, 20_000, 2).weights
    runs = np.stack([replicate_metrics(table, weights).summary["AP"] for table in exact["tables"]], axis=-1)
    found = TwoSources.of(np.array([0.0, 0.0]), runs[:, SEEDS:] - runs[:, :SEEDS])
    expected = np.cov(exact["difference"], rowvar=False, ddof=0)[0, 1]
    assert found.image_variance == pytest.approx(max(expected, 0), abs=0.03 * exact["difference"].var())


def test_weights_repeat_and_do_not_depend_on_how_many_follow():
    first, again, longer = ImageResamples(40, 5, 3).weights, ImageResamples(40, 5, 3).weights, ImageResamples(40, 9, 3).weights
    assert np.array_equal(first, again)
    assert np.array_equal(first, longer[:5])
    assert not np.array_equal(first, ImageResamples(40, 5, 4).weights)
    assert first.sum(axis=1).tolist() == [40] * 5


def test_groups_of_a_jackknife_cover_each_image_once():
    groups = image_groups(10, 4, 0)
    assert (groups == 0).sum(axis=0).tolist() == [1] * 10
    assert sorted((groups == 0).sum(axis=1).tolist()) == [2, 2, 3, 3]


@pytest.mark.parametrize("wrong", [{"images": 0, "count": 1}, {"images": 1, "count": 0}, {"images": 1, "count": 1, "seed": -1}])
def test_impossible_resamples_are_refused(wrong):
    with pytest.raises(ValueError, match="expected images and count >= 1"):
        ImageResamples(**wrong)
