"""Every late fusion against its plain twin: per class and agnostic, per level, weighted sources, every variant of its own."""

from __future__ import annotations

import pytest
import yaml
from late_fusion_cases import FOLDER, METHODS, assert_same, candidates, method, rows, twin

VARIANTS = {
    "nms": [{"iou_threshold": 0.4}],
    "none": [{}],
    "diou_nms": [{"threshold": 0.4}, {"threshold": 0.3, "beta": 0.6}],
    "soft_nms": [{"method": "linear"}, {"method": "gaussian"}, {"method": "gaussian", "score_threshold": 0.2}],
    "matrix_nms": [{"method": "linear"}, {"method": "gaussian"}, {"method": "gaussian", "score_threshold": 0.0}],
    "voting": [{}, {"iou_threshold": 0.6, "vote_threshold": 0.3}],
    "nmw": [{}, {"iou_threshold": 0.3}],
    "wbf": [{"confidence": name} for name in ("avg", "avg_overflow", "max", "box_and_model_avg", "absent_model_aware_avg")],
}
CASES = [(name, variant) for name in METHODS for variant in VARIANTS[name]]


def check(name, changes, sources, weights=None):
    keys = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    changes = {key: value for key, value in changes.items() if key in keys}
    found = method(name, **changes)(sources, *([weights] if weights else []))
    for image in range(len(sources[0].scores)):
        assert_same(rows(found, image), twin(name, sources, image, keys | changes, weights))


@pytest.mark.parametrize(("name", "variant"), CASES)
@pytest.mark.parametrize("grouping", [{}, {"class_agnostic": True}, {"per_level": True}, {"class_agnostic": True, "per_level": True}])
def test_one_source(name, variant, grouping) -> None:
    check(name, variant | grouping | {"max_detections": 1000}, [candidates()])


@pytest.mark.parametrize(("name", "variant"), CASES)
@pytest.mark.parametrize("per_level", [False, True])
@pytest.mark.parametrize("weights", [None, [2.0, 1.0, 0.5]])
def test_three_sources(name, variant, per_level, weights) -> None:
    sources = [candidates(batch=2, count=30, seed=seed) for seed in (0, 0, 1)]  # the second says what the first says, to the digit
    sources[1] = type(sources[1])(sources[1].boxes + 1, sources[1].scores * 0.95, sources[1].labels, sources[1].levels, sources[1].valid)
    check(name, variant | {"per_level": per_level, "max_detections": 1000}, sources, weights)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("limit", [1, 7])
def test_only_the_best_are_kept(name, limit) -> None:
    """Also where the loop stops early because more could not be used."""
    check(name, {"max_detections": limit}, [candidates()])
    check(name, {"max_detections": limit, "per_level": True, "class_agnostic": True}, [candidates(seed=4)])


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_groups_wider_than_a_block(name, variant, monkeypatch) -> None:
    """Pairs are treated in blocks; one rank at a time must give the same."""
    from fusion_det import suppression

    monkeypatch.setitem(suppression.PAIRS_AT_ONCE, "cpu", 200)
    check(name, variant | {"class_agnostic": True}, [candidates(batch=2)])


@pytest.mark.parametrize("name", ["nms", "voting", "nmw"])
def test_wide_groups_through_torchvisions_kernel(name, monkeypatch) -> None:
    from fusion_det import suppression

    monkeypatch.setattr(suppression, "WIDE", 10)
    check(name, {"class_agnostic": True}, [candidates(batch=2)])


def test_every_method_has_variants() -> None:
    assert sorted(VARIANTS) == METHODS
