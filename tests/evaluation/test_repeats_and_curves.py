"""Detections given twice, and precision over recall as data and as a table."""

import csv

import numpy as np
import pytest
from coco_cases import HIT, one_box
from test_coco_metrics import random_case

from fusion_det.evaluation.coco_metrics import evaluate_boxes
from fusion_det.evaluation.predictions import DetectionArrays
from fusion_det.evaluation.repeats import repeated


class TestRepeats:
    def test_rows_that_equal_an_earlier_one(self):
        other = [HIT | change for change in ({"score": 0.8}, {"bbox": [10.0, 10.0, 40.0, 41.0]}, {"image_id": 8}, {"category_id": 4})]
        again, first = repeated(DetectionArrays.from_results([*other, HIT, other[1], HIT, dict(HIT), other[1]]))
        assert (again.tolist(), first.tolist()) == ([5, 6, 7, 8], [1, 4, 4, 1])

    def test_none(self):
        for results in ([], [HIT], random_case(0)[1]):
            assert [len(rows) for rows in repeated(DetectionArrays.from_results(results))] == [0, 0]

    def test_zero_has_one_sign(self):
        results = [HIT | {"bbox": [0.0, 1.0, 2.0, 3.0]}, HIT | {"bbox": [-0.0, 1.0, 2.0, 3.0]}]
        assert repeated(DetectionArrays.from_results(results))[0].tolist() == [1]

    def test_equal_numbers_in_other_columns_are_no_repeat(self):
        results = [HIT | {"bbox": [1.0, 2.0, 3.0, 4.0]}, HIT | {"bbox": [2.0, 1.0, 4.0, 3.0]}]
        assert not len(repeated(DetectionArrays.from_results(results))[0])

    def test_metrics_warn(self):
        assert evaluate_boxes(one_box(), [HIT]).warnings == ()
        assert evaluate_boxes(one_box(), [HIT, HIT]).warnings[0].startswith("1 detections are given twice; first [1] as [0]")


class TestCurves:
    def test_by_hand(self):
        truth = one_box()
        truth["annotations"].append({**truth["annotations"][0], "id": 2, "bbox": [100.0, 100.0, 40.0, 40.0]})
        truth["categories"].append({"id": 4, "name": "=cmd()"})
        wrong = HIT | {"bbox": [300.0, 300.0, 40.0, 40.0], "score": 0.95}
        curves = evaluate_boxes(truth, [wrong, HIT]).curves
        half = np.where(np.arange(101) <= 50, 0.5, 0.0)
        np.testing.assert_array_equal(curves.curve(iou=0.75, name="disc"), half)
        np.testing.assert_array_equal(curves.curve(iou=0.75), half)
        assert np.isnan(curves.curve(iou=0.5, name="=cmd()")).all()
        assert np.isnan(curves.curve(iou=0.5, area="large")).all()
        for wrong_key in ({"iou": 0.51}, {"iou": 0.5, "name": "x"}, {"iou": 0.5, "area": "huge"}):
            with pytest.raises(ValueError, match="a class of the data"):
                curves.curve(**wrong_key)

    def test_mean_of_the_curves_is_ap(self):
        truth, results = random_case(1, empty_class=True)
        metrics = evaluate_boxes(truth, results)
        means = [metrics.curves.curve(iou=iou).mean() for iou in metrics.curves.iou_thresholds]
        assert np.mean(means) == pytest.approx(metrics.summary["AP"])
        assert [values["AP"] for values in metrics.per_iou.values()] == pytest.approx(means)
        assert np.mean([values["AR100"] for values in metrics.per_iou.values()]) == pytest.approx(metrics.summary["AR100"])
        assert metrics.per_iou["0.50"]["AP"] == metrics.summary["AP50"]
        assert metrics.per_iou["0.75"]["AP"] == metrics.summary["AP75"]
        name = next(name for name, values in metrics.per_class.items() if values["APs"] is not None)
        small = [metrics.curves.curve(iou=iou, name=name, area="small").mean() for iou in metrics.curves.iou_thresholds]
        assert np.mean(small) == pytest.approx(metrics.per_class[name]["APs"])

    def test_csv(self):
        truth, results = random_case(1, empty_class=True)
        names = ["=1+1", 'a,"b"', "disc"]
        for category, name in zip(truth["categories"][1:], names, strict=True):  # the first is the empty class
            category["name"] = name
        metrics = evaluate_boxes(truth, results)
        rows = list(csv.DictReader(metrics.curves.csv().splitlines()))
        assert {row["class"] for row in rows} == {"mean of classes", "'=1+1", 'a,"b"', "disc"}
        for row in rows:
            name = {"mean of classes": None, "'=1+1": "=1+1"}.get(row["class"], row["class"])
            curve = metrics.curves.curve(iou=float(row["iou"]), name=name, area=row["area"])
            assert [float(row[f"precision_at_{r / 100:.2f}"]) for r in range(101)] == pytest.approx(curve.tolist(), abs=1e-5)
        recalls = [float(row["max_recall"]) for row in rows if row["class"] == "disc" and row["area"] == "all"]
        assert np.mean(recalls) == pytest.approx(metrics.per_class["disc"]["AR100"], abs=1e-5)
        assert {row["category_id"] for row in rows if row["class"] == "disc"} == {str(truth["categories"][3]["id"])}
