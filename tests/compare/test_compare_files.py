"""Predictions files of any framework: the verdict, and every fault in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from comparison_sets import random_detections, random_truth

from fusion_det.compare.files import compare_files
from fusion_det.errors import DataError, FusionDetError
from fusion_det.evaluation.coco_metrics import evaluate_boxes
from fusion_det.evaluation.predictions import DetectionArrays


def records(detections: DetectionArrays) -> list[dict]:
    columns = (detections.image_ids, detections.category_ids, detections.boxes, detections.scores)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [{"image_id": image, "category_id": kind, "bbox": box, "score": score} for image, kind, box, score in rows]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    truth = random_truth(np.random.default_rng(0), images=60, boxes=5)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    for arm, recall in (("add", 0.5), ("aff", 0.95)):
        for seed in range(3):
            rng = np.random.default_rng([int(100 * recall), seed])
            found = random_detections(rng, truth, recall=recall, jitter=0.05, digits=4)
            (tmp_path / f"{arm}-{seed}.json").write_text(json.dumps(records(found)))
    return tmp_path


def files(folder: Path, arm: str, count: int = 3) -> list[Path]:
    return [folder / f"{arm}-{seed}.json" for seed in range(count)]


def test_files_of_two_arms(folder):
    found = compare_files(folder / "truth.json", {"add": files(folder, "add"), "aff": files(folder, "aff")}, resamples=200, margin=0.01)
    truth = json.loads((folder / "truth.json").read_text())
    expected = [evaluate_boxes(truth, json.loads(path.read_text()), backend="pycocotools").summary["AP"] for path in files(folder, "aff")]
    assert found.arms["aff"]["AP"].values == pytest.approx(expected, abs=1e-12)
    assert (found.baseline, found.verdicts["aff"].word) == ("add", "better")


def test_seeds_may_have_names_and_the_baseline_may_come_second(folder):
    arms = {"aff": dict(zip("abc", files(folder, "aff"), strict=True)), "add": dict(zip("cbd", files(folder, "add"), strict=True))}
    found = compare_files(folder / "truth.json", arms, baseline="add", resamples=50, classes=False)
    assert found.differences["aff"]["AP"].seeds == ("c", "b")
    assert found.differences["aff"]["AP"].estimate > 0


def broken(folder: Path, change) -> Path:
    rows = json.loads((folder / "aff-0.json").read_text())
    change(rows)
    (folder / "broken.json").write_text(json.dumps(rows))
    return folder / "broken.json"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[4].update(score=float("nan")), r"broken.json\[4\].*score is not finite"),
        (lambda rows: rows[4].update(image_id=12345), r"broken.json.*12345"),
        (lambda rows: rows[4].update(category_id=77), r"broken.json.*77"),
        (lambda rows: rows.append(rows[2]), r"broken.json\[\d+\].*1 detections are given twice, the first repeats \[2\]"),
        (lambda rows: rows[4].pop("bbox"), r"broken.json\[4\].*bbox"),
    ],
)
def test_broken_files_are_named_in_one_line(folder, change, message):
    with pytest.raises(DataError, match=message) as caught:
        compare_files(folder / "truth.json", {"add": files(folder, "add", 1), "aff": [broken(folder, change)]})
    assert len(caught.value.lines) == 1


def test_all_broken_files_are_told_at_once(folder):
    (folder / "half.json").write_text((folder / "aff-0.json").read_text()[:500])
    with pytest.raises(FusionDetError) as caught:
        compare_files(folder / "truth.json", {"add": [folder / "missing.json"], "aff": [folder / "half.json"]})
    assert len(caught.value.lines) == 2
    assert "missing.json" in str(caught.value)
    assert "half.json" in str(caught.value)


def test_one_file_given_twice_and_one_arm_alone_are_refused(folder):
    twice = [folder / "aff-0.json", folder / "aff-0.json"]
    with pytest.raises(DataError, match="arm aff: seeds 0 and 1 have the very same predictions"):
        compare_files(folder / "truth.json", {"add": files(folder, "add", 2), "aff": twice})
    with pytest.raises(ValueError, match="expected two or more"):
        compare_files(folder / "truth.json", {"aff": files(folder, "aff")})
