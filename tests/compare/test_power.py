"""The power planner against tables of the paired t test and against simulation."""

from __future__ import annotations

import numpy as np
import pytest

from fusion_det.compare.power import detectable_difference, detection_power, sameness_power, seeds_needed
from fusion_det.compare.two_sources import TwoSources


@pytest.mark.parametrize(("effect", "seeds"), [(1.0, 10), (0.5, 34), (0.8, 15), (2.0, 5)])
def test_seeds_of_the_paired_t_test(effect, seeds):
    """Differences in standard deviations, 80 % power, two-sided 5 %: the usual table (10, 34, 15, 5)."""
    assert seeds_needed(effect, 1.0) == seeds
    assert detection_power(effect, seeds, 1.0) >= 0.8 > detection_power(effect, seeds - 1, 1.0)


def test_images_alone_are_a_z_test():
    assert detection_power(2.801585, 3, 1e-9, 1.0) == pytest.approx(0.8, abs=1e-4)
    assert detection_power(-2.801585, 3, 1e-9, 1.0) == pytest.approx(0.8, abs=1e-4)


def test_more_seeds_do_not_help_against_the_images():
    assert seeds_needed(0.3, 0.2, 0.2) is None
    assert seeds_needed(0.0, 0.2, 0.1) is None
    assert isinstance(seeds_needed(0.6, 0.2, 0.2), int)


def test_detectable_difference_is_the_inverse():
    for seeds, image in ((3, 0.0), (5, 0.1), (20, 0.3)):
        size = detectable_difference(seeds, 0.3, image)
        assert detection_power(size, seeds, 0.3, image) == pytest.approx(0.8, abs=1e-6)
    assert detectable_difference(3, 0.0, 0.0) == 0


@pytest.mark.parametrize(("seeds", "seed_deviation", "image_deviation"), [(3, 0.3, 0.1), (5, 0.2, 0.15)])
def test_power_as_simulated(seeds, seed_deviation, image_deviation):
    rng = np.random.default_rng(0)
    studies, better, same = 1000, 0, 0
    for _ in range(studies):
        values = seed_deviation * rng.standard_normal(seeds)
        spread = values.var(ddof=1)
        common = image_deviation * rng.standard_normal()
        better += TwoSources(values.mean() + common + 0.5, seeds, spread, image_deviation**2).interval().low > 0
        same += TwoSources(values.mean() + common, seeds, spread, image_deviation**2).interval().within(0.7)
    assert better / studies == pytest.approx(detection_power(0.5, seeds, seed_deviation, image_deviation), abs=0.04)
    assert same / studies == pytest.approx(sameness_power(0.7, seeds, seed_deviation, image_deviation), abs=0.04)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [((0.3, 1, 0.2), "the noise of one seed is unknown"), ((0.3, 3, -0.2), "deviations >= 0"), ((0.3, 3, 0.0), "expected some noise")],
)
def test_impossible_plans_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        detection_power(*wrong)
