"""Words for differences, adjusted for the number of arms."""

from __future__ import annotations

import numpy as np
import pytest

from fusion_det.compare.power import seeds_needed
from fusion_det.compare.two_sources import TwoSources
from fusion_det.compare.verdicts import false_discovery_adjusted, holm_verdicts


def images_only(estimate: float, deviation: float = 0.001) -> TwoSources:
    """Three seeds that agree; noise of images: a z test."""
    return TwoSources(estimate, 3, 0.0, deviation**2)


def test_holm_by_hand():
    """z = 2.6, 2.2, 1.9 and 2.3: p = 0.0093, 0.0278, 0.0574, 0.0214; 4p and 3p pass 5 % only for the first."""
    arms = {name: images_only(z / 1000) for name, z in {"a": 2.6, "b": 2.2, "c": 1.9, "d": 2.3}.items()}
    found = holm_verdicts(arms, margin=0.0001)
    assert [found[name].adjusted_p_value for name in "adbc"] == pytest.approx(
        [4 * 0.009322, 3 * 0.021448, 3 * 0.021448, 0.064344], abs=2e-5
    )
    assert {name: verdict.word for name, verdict in found.items()} == {
        "a": "better",
        "b": "cannot tell",
        "c": "cannot tell",
        "d": "cannot tell",
    }
    assert list(found) == ["a", "b", "c", "d"]
    assert found["a"].interval.confidence == pytest.approx(1 - 0.05 / 4)
    assert found["d"].interval.confidence == found["b"].interval.confidence == pytest.approx(1 - 0.05 / 3)


def test_interval_excludes_zero_exactly_where_holm_rejects():
    rng = np.random.default_rng(0)
    for _ in range(60):
        arms = {str(i): TwoSources(rng.normal(0, 0.003), 3, rng.uniform(0, 2e-6), rng.uniform(0, 2e-6)) for i in range(4)}
        for verdict in holm_verdicts(arms, margin=0.003).values():
            assert verdict.interval.excludes_zero() == (verdict.word in ("better", "worse"))
            assert verdict.adjusted_p_value is not None
            assert verdict.interval.excludes_zero() == (verdict.adjusted_p_value < 0.05)


def test_the_four_words():
    arms = {"up": 0.01, "down": -0.01, "nothing": 0.0001, "perhaps": 0.003}
    found = holm_verdicts({name: images_only(size, 0.0005 if name == "nothing" else 0.002) for name, size in arms.items()}, margin=0.003)
    assert {name: verdict.word for name, verdict in found.items()} == {
        "up": "better",
        "down": "worse",
        "nothing": "same",
        "perhaps": "cannot tell",
    }
    assert found["up"].reason == "+0.50 to +1.50 AP excludes 0"
    assert "lies inside +-0.30" in found["nothing"].reason


def test_real_but_too_small_to_matter():
    found = holm_verdicts({"new": images_only(0.001, 0.0001)}, margin=0.003)["new"]
    assert (found.word, found.within_margin) == ("better", True)
    assert "inside the margin of 0.30" in found.reason


def test_cannot_tell_says_how_many_seeds_it_takes():
    found = holm_verdicts({"new": TwoSources(0.002, 3, 0.003**2, 0.0005**2)}, margin=0.003)["new"]
    assert found.word == "cannot tell"
    assert found.seeds_needed == seeds_needed(0.003, 0.003, 0.0005)
    assert f"{found.seeds_needed} seeds would find a difference of 0.30 (power 80 %)" in found.reason
    hopeless = holm_verdicts({"new": TwoSources(0.002, 3, 0.003**2, 0.005**2)}, margin=0.003)["new"]
    assert hopeless.seeds_needed is None
    assert "more test images" in hopeless.reason


def test_one_seed_and_identical_arms_get_no_verdict_and_do_not_count():
    arms = {"one": TwoSources(0.5, 1, 0.0, 1e-6), "copy": TwoSources(0.0, 3, 0.0, 0.0), "real": images_only(0.0021)}
    found = holm_verdicts(arms, margin=0.003, identical=frozenset({"copy"}))
    assert (found["one"].word, found["copy"].word, found["real"].word) == ("none", "none", "better")
    assert found["one"].reason.startswith("seed noise unknown")
    assert "did the arm's change take effect" in found["copy"].reason
    assert found["one"].p_value is found["one"].adjusted_p_value is None


def test_benjamini_hochberg_by_hand():
    assert false_discovery_adjusted(np.array([0.01, 0.04, 0.03, 0.5])) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert false_discovery_adjusted(np.array([])).tolist() == []
