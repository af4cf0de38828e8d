"""Nothing to measure and input that pycocotools would turn into a made-up number: a warning or an error, never a number."""

import math

import pytest
from coco_cases import HIT, one_box

from fusion_det.errors import DataError
from fusion_det.evaluation.box_metrics import SUMMARY_NAMES
from fusion_det.evaluation.coco_metrics import evaluate_boxes
from fusion_det.evaluation.predictions import DetectionArrays


class TestNothingToMeasure:
    def test_no_detections(self):
        metrics = evaluate_boxes(one_box(), [])
        assert metrics.summary == dict.fromkeys(SUMMARY_NAMES, 0.0) | dict.fromkeys(["APs", "APl", "ARs", "ARl"])
        assert "no detections" in metrics.warnings[0]

    @pytest.mark.parametrize("annotations", [[], one_box(iscrowd=1)["annotations"]])
    @pytest.mark.parametrize("results", [[], [HIT]])
    def test_no_boxes(self, annotations, results):
        metrics = evaluate_boxes({**one_box(), "annotations": annotations}, results)
        assert metrics.summary == dict.fromkeys(SUMMARY_NAMES)
        assert "no boxes" in metrics.warnings[0]
        assert "    -" in metrics.table()

    def test_no_images_and_no_classes(self):
        assert evaluate_boxes({"images": [], "annotations": [], "categories": []}, []).summary == dict.fromkeys(SUMMARY_NAMES)

    def test_missing_area_is_width_times_height_and_told(self):
        truth = one_box()
        del truth["annotations"][0]["area"], truth["annotations"][0]["iscrowd"]
        metrics = evaluate_boxes(truth, [HIT])
        assert metrics.summary["APm"] == pytest.approx(1)
        assert "1 of 1 annotations have no area" in metrics.warnings[0]


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"score": math.nan}, r"results\[1\] \(image 7\): score is not finite"),
            ({"score": math.inf}, "score is not finite"),
            ({"bbox": [math.nan] * 4}, r"results\[1\] \(image 7\): box is not finite"),
            ({"bbox": [0.0, 0.0, math.inf, 1.0]}, "box is not finite"),
            ({"bbox": [0.0, 0.0, -1.0, 1.0]}, r"results\[1\] \(image 7\): box has a negative width"),
            ({"bbox": [0.0, 0.0, 1.0]}, "not four numbers"),
            ({"bbox": "1234"}, "not four numbers"),
            ({"bbox": [0, 0, True, 1]}, "not four numbers"),
            ({"score": "0.5"}, "not a number"),
            ({"score": None}, "not a number"),
            ({"score": 10**400}, "not a number"),
            ({"category_id": 99}, "1 of 2 detections have an unknown category id: 99"),
            ({"image_id": 8}, "1 of 2 detections have an unknown image id: 8"),
            ({"image_id": "7"}, "'image_id' is not an integer"),
            ({"image_id": 7.5}, "'image_id' is not an integer"),
        ],
    )
    def test_detections(self, change, message):
        with pytest.raises(DataError, match=message) as caught:
            evaluate_boxes(one_box(), [HIT, HIT | change])
        assert caught.value.mend

    def test_arrays_are_guarded_too(self):
        arrays = DetectionArrays.from_results([HIT])
        arrays.scores[0] = math.nan
        with pytest.raises(DataError, match="score is not finite"):
            evaluate_boxes(one_box(), arrays)

    def test_unknown_ids_are_counted_and_the_first_named(self):
        results = [HIT | {"image_id": 100 + i // 2} for i in range(20)]
        with pytest.raises(DataError, match=r"20 of 21 detections .*: 100, 101, 102, 103, 104, \.\.\."):
            evaluate_boxes(one_box(), [HIT, *results])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"bbox": [0, 0, math.nan, 1]}, r"annotation 1 \(image 7\): bbox is not four finite"),
            ({"bbox": None}, "bbox is not four finite"),
            ({"bbox": [0, 0, -5, 1]}, "negative width"),
            ({"area": math.nan}, "area is not a finite"),
            ({"image_id": 9}, "1 of 1 annotations have an unknown image id"),
            ({"image_id": [7]}, "1 of 1 annotations have an unknown image id"),
            ({"category_id": 9}, "1 of 1 annotations have an unknown category id"),
        ],
    )
    def test_annotations(self, change, message):
        with pytest.raises(DataError, match=message):
            evaluate_boxes(one_box(**change), [HIT])

    def test_repeated_and_odd_ids_and_missing_parts(self):
        with pytest.raises(DataError, match="1 image ids occur more than once: 7"):
            evaluate_boxes({**one_box(), "images": [{"id": 7}, {"id": 7}]}, [HIT])
        with pytest.raises(DataError, match="1 category ids occur more than once: 3"):
            evaluate_boxes({**one_box(), "categories": [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]}, [HIT])
        with pytest.raises(DataError, match="1 image ids are not integers: '7'"):
            evaluate_boxes({**one_box(), "images": [{"id": 7}, {"id": "7"}]}, [HIT])
        with pytest.raises(DataError, match="categories"):
            evaluate_boxes({"images": [], "annotations": []}, [])
