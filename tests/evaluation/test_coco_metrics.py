"""Our numbers against pycocotools run by hand and against cases small enough for a pencil."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from coco_cases import HIT, one_box
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fusion_det.evaluation.box_metrics import CLASS_NAMES, SUMMARY_NAMES
from fusion_det.evaluation.coco_metrics import evaluate_boxes
from fusion_det.evaluation.predictions import DetectionArrays


def random_case(seed: int, *, images: int = 6, classes: int = 4, per_image: int = 8, detections: int = 12, empty_class: bool = False):
    """Ground truth with crowds, all sizes, gaps in the ids and an image without boxes; detections near and far from it, with ties."""
    draw = np.random.default_rng(seed)
    image_ids = [int(value) for value in draw.permutation(1000)[:images]]
    category_ids = [int(value) for value in draw.permutation(90)[:classes] + 1]
    annotations, results = [], []
    for image_id in image_ids[:-1]:
        for _ in range(int(draw.integers(1, per_image + 1))):
            size = np.exp(draw.uniform(np.log(4), np.log(300), 2))
            box = [*draw.uniform(0, 400, 2), *size]
            category_id = int(draw.choice(category_ids[1:] if empty_class else category_ids))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": [round(float(value), 2) for value in box],
                    "area": float(size.prod() * draw.uniform(0.4, 1)),
                    "iscrowd": int(draw.random() < 0.1),
                }
            )
    for _ in range(detections * images):
        source = annotations[int(draw.integers(len(annotations)))]
        near = draw.random() < 0.7
        box = (
            np.array(source["bbox"]) * np.exp(draw.normal(0, 0.08, 4))
            if near
            else np.array([*draw.uniform(0, 400, 2), *draw.uniform(2, 200, 2)])
        )
        results.append(
            {
                "image_id": source["image_id"] if near else int(draw.choice(image_ids)),
                "category_id": source["category_id"] if draw.random() < 0.85 else int(draw.choice(category_ids)),
                "bbox": [float(value) for value in box],
                "score": round(float(draw.random()), 2),
            }
        )
    truth = {
        "images": [{"id": image_id, "file_name": f"{image_id}.jpg", "width": 640, "height": 480} for image_id in image_ids],
        "categories": [{"id": c, "name": f"name {c}", "supercategory": f"group {c % 2}"} for c in category_ids],
        "annotations": annotations,
    }
    return truth, results


def by_pycocotools(truth: dict, results: list, category_ids: list[int] | None = None) -> dict[str, float | None]:
    """The usual recipe: loadRes, evaluate, accumulate, summarize; one class at a time if asked."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
        if category_ids:
            evaluation.params.catIds = category_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: None if value == -1 else float(value) for name, value in zip(SUMMARY_NAMES, evaluation.stats, strict=True)}


class TestAgainstPycocotools:
    @pytest.mark.parametrize("seed", range(25))
    def test_random_sets_agree_exactly_also_per_class(self, seed):
        truth, results = random_case(seed, empty_class=seed % 3 == 0)
        metrics = evaluate_boxes(truth, results)
        assert metrics.summary == by_pycocotools(truth, results)
        assert list(metrics.summary) == list(SUMMARY_NAMES)
        for category in truth["categories"]:
            expected = by_pycocotools(truth, results, [category["id"]])
            found = metrics.per_class[category["name"]]
            assert {name: found[name] for name in CLASS_NAMES} == {name: expected[name] for name in CLASS_NAMES}
            boxes = [a for a in truth["annotations"] if a["category_id"] == category["id"] and not a["iscrowd"]]
            assert (found["boxes"], found["images"]) == (len(boxes), len({a["image_id"] for a in boxes}))

    @pytest.mark.parametrize("seed", range(3))
    def test_more_than_a_hundred_detections_of_one_class_in_one_image(self, seed):
        truth, results = random_case(seed, images=2, classes=1, detections=180)
        image_id = truth["images"][0]["id"]
        assert sum(result["image_id"] == image_id for result in results) > 150
        assert evaluate_boxes(truth, results).summary == by_pycocotools(truth, results)

    def test_fewer_detections_give_less_recall(self):
        truth, results = random_case(1, images=2, classes=1, detections=180)
        recalls = [evaluate_boxes(truth, results, max_detections=n).summary["AR100"] for n in (1, 5, 20, 100)]
        assert recalls == sorted(recalls)
        assert recalls[0] < recalls[-1]
        full = evaluate_boxes(truth, results).summary
        assert recalls[0] == full["AR1"]
        assert evaluate_boxes(truth, results, max_detections=10).summary["AR100"] == full["AR10"]
        with pytest.raises(ValueError, match="max_detections"):
            evaluate_boxes(truth, results, max_detections=0)

    def test_arrays_order_of_images_and_unchanged_input(self):
        truth, results = random_case(4)
        before = copy.deepcopy((truth, results))
        listed = evaluate_boxes(truth, results)
        assert evaluate_boxes(truth, DetectionArrays.from_results(results)) == listed
        assert (truth, results) == before
        shuffled = {**truth, "images": truth["images"][::-1], "categories": truth["categories"][::-1]}
        assert evaluate_boxes(shuffled, results).summary == listed.summary

    def test_prints_nothing(self, capsys):
        evaluate_boxes(*random_case(2))
        assert capsys.readouterr() == ("", "")


class TestByHand:
    def test_perfect_detection(self):
        metrics = evaluate_boxes(one_box(), [HIT])
        expected = dict.fromkeys(SUMMARY_NAMES, 1.0) | dict.fromkeys(["APs", "APl", "ARs", "ARl"])
        assert metrics.summary == pytest.approx(expected)
        assert metrics.counts["boxes"] == metrics.counts["detections"] == 1
        assert metrics.warnings == ()

    def test_iou_of_seven_tenths_counts_for_five_of_ten_thresholds(self):
        hit = HIT | {"bbox": [10.0, 10.0, 40.0, 28.4]}  # IoU 0.71: 0.50, 0.55, 0.60, 0.65 and 0.70 are met
        summary = evaluate_boxes(one_box(), [hit]).summary
        assert summary["AP"] == pytest.approx(0.5)
        assert summary["AP50"] == pytest.approx(1)
        assert summary["AP75"] == 0

    def test_area_comes_from_the_annotation(self):
        summary = evaluate_boxes(one_box(area=900.0), [HIT]).summary
        assert summary["APs"] == pytest.approx(1)
        assert summary["APm"] is None

    def test_crowd_neither_counts_nor_hurts(self):
        truth = one_box()
        truth["annotations"].append({**truth["annotations"][0], "id": 2, "bbox": [100.0, 100.0, 200.0, 200.0], "iscrowd": 1})
        inside = [HIT | {"bbox": [100.0 + 50 * i, 120.0, 40.0, 40.0], "score": 0.95} for i in range(3)]
        metrics = evaluate_boxes(truth, [*inside, HIT])
        assert metrics.summary["AP"] == pytest.approx(1)
        assert (metrics.counts["boxes"], metrics.counts["crowds"]) == (1, 1)

    def test_supercategory_is_the_mean_of_its_classes(self):
        truth, results = random_case(5, empty_class=True)
        metrics = evaluate_boxes(truth, results)
        assert set(metrics.per_supercategory) == {c["supercategory"] for c in truth["categories"]}
        for group, numbers in metrics.per_supercategory.items():
            members = [metrics.per_class[c["name"]]["AP"] for c in truth["categories"] if c["supercategory"] == group]
            assert numbers["AP"] == pytest.approx(np.mean([value for value in members if value is not None]))
        for category in truth["categories"]:
            category["supercategory"] = "thing"
        assert evaluate_boxes(truth, results).per_supercategory == {}

    @pytest.mark.parametrize("ids", [[0, 1], [5, 5], [None, None]])
    def test_annotation_ids_that_pycocotools_gets_wrong_are_renumbered(self, ids):
        truth = one_box()
        truth["annotations"] = [
            {**truth["annotations"][0], "id": ids[0]},
            {**truth["annotations"][0], "id": ids[1], "bbox": [100.0, 100.0, 40.0, 40.0]},
        ]
        assert evaluate_boxes(truth, [HIT, HIT | {"bbox": [100.0, 100.0, 40.0, 40.0]}]).summary["AP"] == pytest.approx(1)

    def test_classes_that_share_a_name_stay_apart(self):
        truth = one_box()
        truth["categories"].append({"id": 4, "name": "disc"})
        assert list(evaluate_boxes(truth, [HIT]).per_class) == ["disc (3)", "disc (4)"]


class TestReport:
    def test_dict_is_json_without_special_numbers(self):
        metrics = evaluate_boxes(*random_case(3, empty_class=True))
        loaded = json.loads(json.dumps(metrics.as_dict(), allow_nan=False))
        assert loaded["summary"] == metrics.summary
        assert None in [values["AP"] for values in loaded["per_class"].values()]
        assert -1 not in [number for values in loaded["per_class"].values() for number in values.values()]

    def test_scalars_leave_the_undefined_out(self):
        metrics = evaluate_boxes(one_box(), [HIT])
        tags = metrics.scalars()
        assert tags["val/AP"] == tags["val_class/disc/AP"] == metrics.summary["AP"]
        assert "val/APs" not in tags

    def test_table_says_its_unit_and_holds_the_numbers(self):
        truth, results = random_case(3, empty_class=True)
        truth["categories"][1]["name"] = "red\x1b[31m\nname"
        metrics = evaluate_boxes(truth, results)
        table = metrics.table()
        assert "x 100" in table
        assert "\x1b" not in table
        lines = table.splitlines()
        assert lines[1].split() == list(SUMMARY_NAMES)
        assert lines[2].split() == ["-" if value is None else f"{100 * value:.1f}" for value in metrics.summary.values()]
        row = next(line for line in lines if line.startswith("red?[31m?name"))
        assert row.split()[-1] == str(metrics.per_class["red\x1b[31m\nname"]["boxes"])
        assert {len(line) for line in lines[4 : 5 + len(truth["categories"])]} == {len(lines[4])}
