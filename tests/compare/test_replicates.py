"""Metrics by image weights: pycocotools' numbers on a data set that was resampled for real."""

from __future__ import annotations

import numpy as np
import pytest
from comparison_sets import equal_numbers, random_detections, random_table, random_truth, resampled_by_hand

from fusion_det.compare import replicates
from fusion_det.compare.replicates import METRICS, replicate_metrics
from fusion_det.compare.weighted_precision import running_sums
from fusion_det.evaluation.array_metrics import match
from fusion_det.evaluation.coco_metrics import evaluate_boxes
from fusion_det.evaluation.match_table import MatchTable


@pytest.mark.parametrize("seed", range(12))
def test_weights_of_one_give_pycocotools_numbers(seed):
    rng = np.random.default_rng(seed)
    truth = random_truth(rng, images=int(rng.integers(1, 12)), classes=int(rng.integers(1, 5)))
    detections = random_detections(rng, truth, digits=1 + seed % 3, false=150)
    expected = evaluate_boxes(truth, detections, backend="pycocotools").summary
    found = replicate_metrics(match(truth, detections), metrics=METRICS).summary
    assert {name: equal_numbers(found[name][0], expected[name]) for name in METRICS} == dict.fromkeys(METRICS, True)


@pytest.mark.parametrize("seed", range(12))
def test_a_resample_is_the_data_set_with_repeated_and_missing_images(seed):
    rng = np.random.default_rng(100 + seed)
    truth = random_truth(rng, images=7, classes=3, boxes=3)
    detections = random_detections(rng, truth, digits=1 + seed % 3, false=60)
    weights = rng.multinomial(7, np.full(7, 1 / 7), size=3)
    found = replicate_metrics(match(truth, detections), weights, metrics=METRICS).summary
    for row, weight in enumerate(weights):
        expected = resampled_by_hand(truth, detections, weight)
        wrong = {name: (found[name][row], expected[name]) for name in METRICS if not equal_numbers(found[name][row], expected[name])}
        assert not wrong, weight


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_evaluator_that_does_one_resample_at_a_time(seed):
    """Larger sets than pycocotools is patient for; more detections than are gathered at once."""
    table = random_table(seed, images=60, boxes=12, classes=2, false=6000, digits=3)
    weights = np.random.default_rng(seed).multinomial(60, np.full(60, 1 / 60), size=4)
    found = replicate_metrics(table, weights, metrics=METRICS).summary
    for row, weight in enumerate(weights):
        expected = table.summary(weight)
        assert all(equal_numbers(found[name][row], expected[name]) for name in METRICS)


def one_class(hits: list[bool], boxes: int) -> MatchTable:
    """One class, an image per detection, ``boxes`` boxes in the first image; detections by falling score."""
    number = len(hits)
    matched = np.broadcast_to(np.array(hits)[None, None], (1, 10, number)).copy()
    return MatchTable.from_arrays(
        matched=matched,
        ignored=np.zeros_like(matched),
        image_ids=np.arange(number),
        category_ids=np.array([1]),
        category_names=("disc",),
        max_detections=100,
        class_starts=np.array([0, number]),
        image=np.arange(number, dtype=np.int32),
        score=np.linspace(1, 0, number),
        rank=np.zeros(number, np.int32),
        row=np.arange(number),
        truth_image=np.zeros(boxes, np.int32),
        truth_class=np.zeros(boxes, np.int32),
        truth_counted=np.ones((1, boxes), bool),
        area_names=("all",),
    )


def test_a_case_by_hand():
    # hit, miss, hit of 4 boxes: recall 1/4 at precision 1, 2/4 at 2/3: 26 points of 1 and 25 of 2/3.
    table = one_class([True, False, True], 4)
    assert replicate_metrics(table).summary["AP"][0] == pytest.approx((26 + 25 * 2 / 3) / 101, abs=1e-15)
    # The miss three times: 2/5. Without the second hit's image: 1/4 only. Four boxes all lie in the first image.
    found = replicate_metrics(table, np.array([[1, 3, 1], [1, 1, 0], [2, 0, 0]])).summary["AP"]
    # The first image twice: 8 boxes and 2 hits.
    assert found == pytest.approx([(26 + 25 * 2 / 5) / 101, 26 / 101, 26 / 101], abs=1e-15)


@pytest.mark.parametrize(("boxes", "hits"), [(20, 7), (100, 41), (10, 7), (50, 41), (20, 8), (20, 19), (100, 99), (3, 1)])
def test_recall_points_that_coco_rounds_up(boxes, hits):
    """7 of 20 boxes is a recall of 0.35, but the recall point is 0.35000000000000003."""
    table = one_class([True] * hits + [False] * 3, boxes)
    reached = np.searchsorted(np.linspace(0, 1, 101), hits / boxes, side="right")
    assert replicate_metrics(table).summary["AP"][0] == pytest.approx(reached / 101, abs=1e-15)


def test_a_class_that_vanishes_is_left_out_of_that_resample():
    truth = random_truth(np.random.default_rng(0), images=6, classes=2, boxes=4, crowds=0)
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] == 1 or a["image_id"] == 1]
    truth["annotations"].append(truth["annotations"][0] | {"id": 999, "category_id": 3, "image_id": 1})
    table = match(truth, random_detections(np.random.default_rng(1), truth))
    found = replicate_metrics(table, np.array([[1] * 6, [0, 2, 1, 1, 1, 1]]))
    classes = found.per_class["AP"]
    assert not np.isnan(classes[0]).any()
    assert np.isnan(classes[1]).tolist() == [False, True]
    assert found.summary["AP"][1] == classes[1, 0]


def test_nothing_is_defined_without_boxes_and_all_is_zero_without_detections():
    table = random_table(3, images=5)
    empty = replicate_metrics(table, np.zeros((1, 5), int), metrics=METRICS).summary
    assert all(np.isnan(values).all() for values in empty.values())
    truth = random_truth(np.random.default_rng(3), images=5)
    nothing = match(truth, random_detections(np.random.default_rng(3), truth, recall=0, false=0))
    assert replicate_metrics(nothing, metrics=["AP", "AR1"]).summary == {"AP": [0.0], "AR1": [0.0]}


def test_parts_threads_and_choice_of_metrics_change_nothing(monkeypatch):
    table = random_table(5, images=30, boxes=6)
    weights = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=50)
    whole = replicate_metrics(table, weights, metrics=METRICS)
    monkeypatch.setattr(replicates, "COLUMNS", 3)
    parts = replicate_metrics(table, weights, metrics=METRICS, threads=2)
    for name in METRICS:
        alone = replicate_metrics(table, weights, metrics=[name])
        assert np.array_equal(whole.summary[name], parts.summary[name], equal_nan=True)
        assert np.array_equal(whole.per_class[name], alone.per_class[name], equal_nan=True)


def test_heavy_weights_do_not_overflow():
    table = random_table(6, images=4, boxes=5)
    light, heavy = np.array([[1, 2, 0, 3]]), np.array([[30_000, 60_000, 0, 90_000]])
    one, many = (replicate_metrics(table, weights).summary["AP"][0] for weights in (light, heavy))
    assert one == pytest.approx(many, abs=1e-9)


def test_running_sums_are_cumulative_sums():
    rng = np.random.default_rng(0)
    weights, images = rng.integers(0, 5, (20, 3)).astype(np.int16), rng.integers(0, 20, 9000)
    until = np.sort(rng.integers(0, 9001, 300))
    until[:3], until[-1] = 0, 9000
    expected = np.concatenate([np.zeros((1, 3)), np.cumsum(weights[images], axis=0)])[until]
    assert np.array_equal(running_sums(weights, images, until), expected)


@pytest.mark.parametrize("weights", [np.ones((2, 4)), np.ones((2, 5), int), -np.ones((2, 4), int), np.ones(4, int)])
def test_wrong_weights_are_refused(weights):
    with pytest.raises(ValueError, match=r"expected weights as integers >= 0 of shape \[R, 4\]"):
        replicate_metrics(random_table(7, images=4), weights)


def test_metrics_that_a_table_does_not_hold_are_refused():
    with pytest.raises(ValueError, match="for \\['APs'\\], got 1 ranges"):
        replicate_metrics(one_class([True], 1), metrics=["AP", "AR10", "APs"])


def test_unknown_metrics_are_refused():
    with pytest.raises(ValueError, match="mAP"):
        replicate_metrics(random_table(7, images=4), metrics=["mAP"])
