"""Whole studies: what may be compared, what comes out, and how often it is right."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from comparison_sets import random_detections, random_table, random_truth

from fusion_det.compare.comparison import compare_study
from fusion_det.compare.estimates import estimate_of
from fusion_det.compare.replicates import replicate_metrics
from fusion_det.compare.resampling import ImageResamples
from fusion_det.compare.simulation import SimulatedTask, average_precision
from fusion_det.compare.study import Study
from fusion_det.errors import DataError, FusionDetError
from fusion_det.evaluation.array_metrics import match
from fusion_det.evaluation.match_table import MatchTable
from fusion_det.evaluation.predictions import DetectionArrays


def arms(recalls: dict[str, float], seeds: int = 3, images: int = 60) -> dict[str, dict[str, MatchTable]]:
    """All runs find the same boxes with the same scores, but an arm keeps only its share, and each seed loses a few."""
    truth = random_truth(np.random.default_rng(0), images=images, boxes=5)
    best = random_detections(np.random.default_rng(1), truth, recall=0.95, jitter=0.03, digits=4)
    found: dict[str, dict[str, MatchTable]] = {}
    for number, (arm, share) in enumerate(recalls.items()):
        arm_keeps = np.random.default_rng(0).random(len(best)) < share
        for seed in range(seeds):
            keeps = arm_keeps & (np.random.default_rng([number, seed]).random(len(best)) < 0.97)
            columns = (best.image_ids, best.category_ids, best.boxes, best.scores)
            found.setdefault(arm, {})[str(seed)] = match(truth, DetectionArrays(*(column[keeps] for column in columns)))
    return found


@pytest.fixture(scope="module")
def found():
    study = Study(arms({"fpn": 0.6, "pafpn": 0.9, "bifpn": 0.6}), "fpn")
    return study, compare_study(study, resamples=200, bca=True, margin=0.01)


def test_estimates_are_the_means_over_seeds(found):
    study, comparison = found
    values = {arm: [table.summary()["AP"] for table in runs.values()] for arm, runs in study.arms.items()}
    for arm, numbers in values.items():
        assert comparison.arms[arm]["AP"].values == pytest.approx(numbers, abs=1e-12)
        assert comparison.arms[arm]["AP"].estimate == pytest.approx(np.mean(numbers), abs=1e-12)
    difference = comparison.differences["pafpn"]["AP"]
    assert difference.values == pytest.approx(np.subtract(values["pafpn"], values["fpn"]), abs=1e-12)
    assert "fpn" not in comparison.differences


def test_a_large_gain_is_better_and_none_is_not(found):
    _, comparison = found
    assert comparison.verdicts["pafpn"].word == "better"
    assert comparison.verdicts["bifpn"].word in ("same", "cannot tell")
    assert comparison.differences["pafpn"]["APs"].interval.low > 0


def test_pairing_removes_the_noise_that_images_cause_in_both_arms(found):
    _, comparison = found
    assert comparison.differences["bifpn"]["AP"].image_deviation < 0.6 * comparison.arms["bifpn"]["AP"].image_deviation


def test_classes_follow_the_evaluator(found):
    study, comparison = found
    precision = np.array([table.precision_recall()[0][..., 0].mean(axis=(0, 1)) for table in study.arms["pafpn"].values()])
    rows = comparison.classes["pafpn"]
    assert [row.category_id for row in rows] == [1, 3, 5]
    assert [row.arm for row in rows] == pytest.approx(precision.mean(axis=0).tolist(), abs=1e-12)
    assert all(row.difference == pytest.approx(row.arm - row.baseline) and row.p_value <= row.adjusted_p_value for row in rows)


def test_report_is_json_with_finite_numbers_only(found):
    _, comparison = found
    again = json.loads(json.dumps(comparison.as_dict(), allow_nan=False))
    assert again["differences"]["pafpn"]["AP"]["interval"]["confidence"] == 0.95
    assert (again["images"], again["resamples"], again["resampling_seed"]) == (60, 200, 0)
    assert {"estimate", "image_interval", "bca_interval", "percentile_interval", "seed_interval"} <= again["arms"]["fpn"]["AP"].keys()
    assert "better" in comparison.table()


def test_the_same_seed_gives_the_same_report(found):
    study, comparison = found
    assert compare_study(study, resamples=200, bca=True, margin=0.01, threads=2) == comparison


def test_one_seed_is_said_and_gets_no_verdict():
    comparison = compare_study(Study(arms({"a": 0.5, "b": 0.9}, seeds=1), "a"), resamples=50, metrics=())
    assert comparison.verdicts["b"].word == "none"
    assert any(line.startswith("seed noise unknown") for line in comparison.warnings)
    assert comparison.differences["b"]["AP"].seed_interval is None


def test_missing_seeds_are_left_out_and_told():
    runs = arms({"a": 0.5, "b": 0.6})
    del runs["b"]["1"]
    comparison = compare_study(Study(runs, "a"), resamples=50, metrics=(), classes=False)
    assert comparison.differences["b"]["AP"].seeds == ("0", "2")
    assert comparison.seeds == {"a": ("0", "1", "2"), "b": ("0", "2")}
    assert any("left out: 1" in line for line in comparison.warnings)


def test_an_arm_that_is_the_baseline_is_told():
    runs = arms({"a": 0.5})
    comparison = compare_study(Study({"a": runs["a"], "b": dict(runs["a"])}, "a"), resamples=50, metrics=(), classes=False)
    assert comparison.verdicts["b"].word == "none"
    assert any("did the change take effect" in line for line in comparison.warnings)


def test_rare_classes_that_vanish_are_told():
    truth = random_truth(np.random.default_rng(0), images=30, classes=2, boxes=4, crowds=0)
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] == 1 or a["image_id"] == 1]
    truth["annotations"].append({"id": 999, "image_id": 1, "category_id": 3, "bbox": [0, 0, 50, 50], "area": 2500, "iscrowd": 0})
    tables = [match(truth, random_detections(np.random.default_rng(i), truth, digits=4)) for i in range(4)]
    study = Study({"a": {"0": tables[0], "1": tables[1]}, "b": {"0": tables[2], "1": tables[3]}}, "a")
    comparison = compare_study(study, resamples=400, metrics=(), classes=True)
    # One image of 30 is missing from (29/30)^30 = 36 % of all resamples.
    assert comparison.vanished.resamples == pytest.approx(145, abs=40)
    assert comparison.vanished.classes == {"class 1": comparison.vanished.resamples}
    assert any("left out of it" in line and "class 1" in line for line in comparison.warnings)


def test_runs_on_different_data_or_settings_are_refused_each_in_one_line():
    table, other = random_table(1, images=6), random_table(2, images=6)
    changes = {
        "the images": replace(table, image_ids=table.image_ids + 1),
        "the category ids": replace(table, category_ids=table.category_ids + 1),
        "the class names": replace(table, category_names=("x", *table.category_names[1:])),
        "the ground-truth boxes": replace(table, truth_counted=~table.truth_counted),
        "max_detections": replace(table, max_detections=10),
        "the IoU thresholds": replace(table, iou_thresholds=table.iou_thresholds + 0.01),
    }
    for words, changed in changes.items():
        with pytest.raises(DataError, match=f"b, seed 0: {words} are not those of a, seed 0"):
            Study({"a": {"0": table}, "b": {"0": changed}}, "a")
    with pytest.raises(FusionDetError) as caught:
        Study({"a": {"0": table}, "b": {"0": other, "1": other}}, "a")
    assert len(caught.value.lines) == 2


def test_seeds_that_repeat_and_arms_without_partners_are_refused():
    one, two = (random_table(seed, truth_seed=0, images=6) for seed in (1, 2))
    with pytest.raises(DataError, match="seeds 0 and 1 have the very same predictions"):
        Study({"a": {"0": one, "1": one}, "b": {"0": two}}, "a")
    with pytest.raises(DataError, match="no seed in common with the baseline a"):
        Study({"a": {"0": one}, "b": {"1": two}}, "a")
    with pytest.raises(DataError, match="has no finished run"):
        Study({"a": {"0": one}, "b": {}}, "a")
    with pytest.raises(ValueError, match="expected the baseline to be one of"):
        Study({"a": {"0": one}}, "c")


@pytest.mark.parametrize("wrong", [{"metrics": ["mAP"]}, {"margin": -1}, {"confidence": 95}, {"resamples": 1}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        compare_study(Study({"a": {"0": random_table(1, images=4)}}, "a"), **wrong)


def test_simulated_studies_are_right_about_as_often_as_they_say():
    """The fast slice of benchmarks/comparison_simulation.py: three seeds, both sources of noise, no difference and a large one."""
    task = SimulatedTask(images=60, seed_spread=0.1, taste=0.5, run_noise=0.4)
    truth, studies = task.true_difference(0.5, np.random.default_rng(0), images=8000, draws=20_000), 80
    covered = up = found = 0
    for number in range(studies):
        study = task.study(3, np.random.default_rng([1, number]), {"twin": 0.0, "better": 0.5})
        weights = ImageResamples(task.images, 120, number).weights
        ap = {arm: np.array([average_precision(table) for table in runs.values()]) for arm, runs in study.arms.items()}
        boot = {
            arm: np.stack([replicate_metrics(table, weights).summary["AP"] for table in runs.values()], axis=-1)
            for arm, runs in study.arms.items()
        }
        for arm, expected in (("twin", 0.0), ("better", truth)):
            estimate = estimate_of(ap[arm] - ap["base"], boot[arm] - boot["base"], "012")
            assert estimate is not None
            covered += estimate.interval.low <= expected <= estimate.interval.high
            up += arm == "twin" and estimate.interval.low > 0
            found += arm == "better" and estimate.interval.low > 0
    assert 0.90 <= covered / (2 * studies) <= 0.99
    assert up / studies <= 0.06
    assert found / studies > 0.4
