"""The image bootstrap against hotcoco 1.3.0's, whose results are stored in hotcoco_golden.json (see make_hotcoco_golden.py).

hotcoco counts an image that a resample drew several times only once. With weights cut to 1 our replicates have its intervals, up to the
noise of two finite bootstraps; with whole weights, which :mod:`test_exact_bootstrap` checks against real copies of the images, standard
errors are larger by about 1.3: n draws give 0.632 n different images, whose mean varies by (1 - 0.632) / 0.632 = 0.58 of the variance.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from comparison_sets import random_detections, random_truth

from fusion_det.compare.replicates import METRICS, replicate_metrics
from fusion_det.compare.resampling import ImageResamples
from fusion_det.evaluation.array_metrics import match
from fusion_det.evaluation.predictions import DetectionArrays

REPLICATES, IMAGES = 4000, 100


def two_runs() -> tuple[dict, list[DetectionArrays]]:
    truth = random_truth(np.random.default_rng(50), images=IMAGES, classes=2, boxes=8)
    drawn = [random_detections(np.random.default_rng(60 + run), truth, recall=0.7 + 0.1 * run, false=400, digits=4) for run in range(2)]
    return truth, drawn


@pytest.fixture(scope="module")
def results():
    """Differences of each metric: of the runs, of the replicates with whole weights, and with weights cut to 1."""
    truth, runs = two_runs()
    tables, weights = [match(truth, run) for run in runs], ImageResamples(IMAGES, REPLICATES, 1).weights
    kinds = {"point": None, "whole": weights, "once": np.minimum(weights, 1)}
    found = {kind: [replicate_metrics(table, value, metrics=METRICS).summary for table in tables] for kind, value in kinds.items()}
    return {kind: {name: two[name] - one[name] for name in METRICS} for kind, (one, two) in found.items()}


@pytest.fixture(scope="module")
def golden() -> dict:
    return json.loads(Path(__file__).with_name("hotcoco_golden.json").read_text())


@pytest.mark.parametrize("name", METRICS)
def test_same_intervals_when_each_drawn_image_counts_once(name, results, golden):
    expected, replicates = golden[name], results["once"][name]
    assert results["point"][name][0] == pytest.approx(expected["delta"], abs=1e-12)
    error = expected["std_err"]
    assert replicates.std(ddof=1) == pytest.approx(error, rel=0.05)
    # The 2.5 % quantile of R normal numbers has a standard error of 2.7 / sqrt(R) deviations; two of them differ by 1.4 times that.
    tolerance = 4 * 1.4 * 2.7 / REPLICATES**0.5 * error
    low, high = np.quantile(replicates, [0.025, 0.975])
    assert (low, high) == (pytest.approx(expected["lower"], abs=tolerance), pytest.approx(expected["upper"], abs=tolerance))


def test_a_real_bootstrap_is_wider(results, golden):
    ratios = [results["whole"][name].std(ddof=1) / golden[name]["std_err"] for name in METRICS]
    assert np.mean(ratios) == pytest.approx(0.58**-0.5, rel=0.06)
