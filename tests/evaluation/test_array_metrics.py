"""The array evaluator against pycocotools and every other back end that is installed: the whole precision and recall arrays, bit by bit."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from coco_cases import HIT, one_box
from small_sets import small_set
from test_coco_metrics import by_pycocotools, random_case

from fusion_det.errors import DataError
from fusion_det.evaluation import box_matching
from fusion_det.evaluation.array_metrics import match
from fusion_det.evaluation.coco_metrics import BACKENDS, evaluate_boxes
from fusion_det.evaluation.coco_reference import reference_precision_recall
from fusion_det.evaluation.match_table import AREA_NAMES, AREA_RANGES, IOU_THRESHOLDS, MatchTable
from fusion_det.evaluation.precision_recall import RECALLS, needed_hits
from fusion_det.evaluation.predictions import DetectionArrays
from fusion_det.evaluation.truth_arrays import TruthArrays

EVAL_CASES = Path(__file__).resolve().parents[3] / "shared" / "data" / "eval_cases"
OTHERS = {"faster_coco_eval": ("COCO", "COCOeval_faster"), "hotcoco": ("COCO", "COCOeval")}


def differences(truth: dict, results: list, max_detections: int = 100) -> tuple[float, float]:
    """Largest difference of precision and of recall from pycocotools'."""
    detections = DetectionArrays.from_results(results)
    expected = reference_precision_recall(TruthArrays.of(truth, []).as_coco(), detections, max_detections)
    found = match(truth, detections, max_detections=max_detections).precision_recall()
    assert [a.shape for a in found] == [a.shape for a in expected]
    return tuple(float(np.abs(a - b).max(initial=0)) for a, b in zip(found, expected, strict=True))


class TestAgainstPycocotools:
    @pytest.mark.parametrize("start", range(0, 200, 50))
    def test_small_sets(self, start):
        for seed in range(start, start + 50):
            assert differences(*small_set(seed)) == (0, 0), seed

    @pytest.mark.slow
    def test_ten_thousand_small_sets(self):
        assert [seed for seed in range(10_000) if differences(*small_set(seed)) != (0, 0)] == []

    @pytest.mark.parametrize(("order", "recall"), [((0, 1), 1.0), ((1, 0), 0.5)])
    @pytest.mark.parametrize("areas", [(1.0, 2.0), (2.0, 1.0)])
    def test_of_equal_ious_the_box_that_comes_last_is_taken(self, order, recall, areas):
        truth, sides = one_box(), ([0.0, 0.0, 100.0, 100.0], [40.0, 0.0, 100.0, 100.0])
        truth["annotations"] = [{**truth["annotations"][0], "id": n, "bbox": sides[n], "area": areas[n]} for n in order]
        results = [HIT | {"bbox": [20.0, 0.0, 100.0, 100.0]}, HIT | {"bbox": sides[0], "score": 0.5}]  # both reach the left one
        assert differences(truth, results) == (0, 0)
        metrics = evaluate_boxes(truth, results)
        assert metrics.curves.recall[0, 0, 0, -1] == recall

    @pytest.mark.parametrize("limit", [1, 100, 150])
    def test_many_detections_of_one_image_and_class(self, limit):
        assert differences(*random_case(0, images=2, classes=1, detections=180), limit) == (0, 0)

    def test_pairs_in_several_parts(self, monkeypatch):
        monkeypatch.setattr(box_matching, "_PAIRS_AT_ONCE", 7)
        assert differences(*random_case(1)) == (0, 0)

    def test_ids_beyond_sixteen_bits(self, monkeypatch):
        truth, results = random_case(2)
        for record in (*truth["images"], *truth["annotations"], *results):
            key = "id" if record in truth["images"] else "image_id"
            record[key] += 2**40
        monkeypatch.setattr("fusion_det.evaluation.array_metrics._RADIX_LIMIT", 3)
        assert differences(truth, results) == (0, 0)

    def test_box_metrics_are_equal_in_all_parts(self):
        truth, results = random_case(3, empty_class=True)
        array, reference = (evaluate_boxes(truth, results, backend=backend) for backend in BACKENDS)
        assert array == reference
        assert array.summary == by_pycocotools(truth, results)
        np.testing.assert_array_equal(array.curves.precision, reference.curves.precision)

    def test_unknown_back_end(self):
        with pytest.raises(ValueError, match="backend in"):
            evaluate_boxes(one_box(), [HIT], backend="other")


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_other_back_ends_that_are_installed(name, seed, tmp_path):
    module = pytest.importorskip(name)
    truth, results = random_case(seed, images=12)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    coco, evaluation = (getattr(module, word) for word in OTHERS[name])
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = coco(str(tmp_path / "truth.json"))
        other = evaluation(ground_truth, ground_truth.loadRes(str(tmp_path / "results.json")), "bbox")
        for step in (other.evaluate, other.accumulate, other.summarize):
            step()
    ours = [-1.0 if value is None else value for value in evaluate_boxes(truth, results).summary.values()]
    assert np.abs(np.array(other.stats)[:12] - ours).max() <= 1e-12


@pytest.mark.skipif(not EVAL_CASES.is_dir(), reason="the folder of published cases is not here")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["coco_fakebbox100", "padilla_100"])
def test_published_cases(name, backend):
    expected = json.loads((EVAL_CASES / "expected_pycocotools_2.0.11.json").read_text())[name]
    truth, results = (json.loads((EVAL_CASES / name / f"{part}.json").read_text()) for part in ("gt", "dets"))
    metrics = evaluate_boxes(truth, results, backend=backend)
    assert metrics.summary == pytest.approx(expected["metrics"], abs=1e-12)
    counts = {key: metrics.counts[key] for key in ("images", "boxes", "crowds", "detections")}
    boxes = expected["annotations"] - expected["crowd"]
    assert counts == {"images": expected["images"], "boxes": boxes, "crowds": expected["crowd"], "detections": expected["detections"]}
    published = EVAL_CASES / name / "expected_published.txt"
    if published.exists():
        text = published.read_text().split("type=bbox")[1].split("type=")[0]
        lines = [line for line in text.splitlines() if "IoU=" in line]
        assert [f"{value:.3f}" for value in metrics.summary.values()] == [line.rpartition("= ")[2] for line in lines]


def test_recall_is_reached_where_floating_point_says_so():
    """pycocotools searches 1/n, 2/n, ..., n/n for the recall, which may be a rounding error away from its share of n."""
    totals = np.arange(1, 2000)
    expected = [np.searchsorted(np.arange(n + 1) / n, RECALLS, side="left") for n in totals]
    np.testing.assert_array_equal(needed_hits(totals[None]), [expected])


class TestWeights:
    """An image of weight n is n images; scores of one image differ, those of two images may be equal."""

    @pytest.mark.parametrize("seed", range(40))
    def test_weights_are_copies(self, seed):
        truth, results, limit = small_set(seed)
        for place, record in enumerate(results):  # copies would change the order of equal scores inside an image
            record["score"] += 1e-3 * sum(other["image_id"] == record["image_id"] for other in results[:place])
        table = match(truth, DetectionArrays.from_results(results), max_detections=limit)
        weights = np.random.default_rng(seed).integers(0, 4, len(truth["images"]))
        copies = repeated_images(truth, results, dict(zip(table.image_ids.tolist(), weights.tolist(), strict=True)))
        expected = match(copies[0], DetectionArrays.from_results(copies[1]), max_detections=limit)
        for found, wanted in zip(table.precision_recall(weights), expected.precision_recall(), strict=True):
            np.testing.assert_array_equal(found, wanted)
        assert table.summary(weights) == expected.summary()

    def test_ones_and_zeros(self):
        truth, results = random_case(5)
        table = match(truth, DetectionArrays.from_results(results))
        assert table.summary(np.ones(6)) == table.summary() == evaluate_boxes(truth, results).summary
        assert set(table.summary(np.zeros(6, dtype=int)).values()) == {None}

    @pytest.mark.parametrize("weights", [[1, 1], [0.5] * 6, [-1] * 6, [np.nan] * 6, [np.inf] * 6])
    def test_others_are_refused(self, weights):
        truth, results = random_case(5)
        with pytest.raises(ValueError, match="6 whole numbers"):
            match(truth, DetectionArrays.from_results(results)).summary(np.array(weights))


def repeated_images(truth: dict, results: list, counts: dict[int, int]) -> tuple[dict, list]:
    """Copies of the images (and of all that is in them), next to each other in the order of ids."""
    ids = {(image, n): 1000 * image + n for image, count in counts.items() for n in range(count)}

    def copies(records):
        return [{**r, "image_id": number} for (image, _), number in ids.items() for r in records if r["image_id"] == image]

    return {**truth, "images": [{"id": number} for number in ids.values()], "annotations": copies(truth["annotations"])}, copies(results)


class TestTable:
    def test_columns_by_hand(self):
        truth = one_box()
        truth["images"].append({"id": 2})
        truth["categories"].append({"id": 1, "name": "ring"})
        results = [HIT | {"score": 0.5}, HIT | {"bbox": [10.0, 10.0, 40.0, 28.4]}, HIT | {"image_id": 2, "score": 0.9}]
        results += [HIT | {"category_id": 1, "score": 0.1, "bbox": [0.0, 0.0, 5.0, 5.0]}]
        table = match(truth, DetectionArrays.from_results(results))
        assert (table.image_ids.tolist(), table.category_ids.tolist(), table.category_names) == ([2, 7], [1, 3], ("ring", "disc"))
        assert table.row.tolist() == [3, 2, 1, 0]  # class, score, then image
        assert table.class_starts.tolist() == [0, 1, 4]
        assert (table.image.tolist(), table.rank.tolist()) == ([1, 0, 1, 1], [0, 0, 0, 1])
        assert table.detection_class.tolist() == [0, 1, 1, 1]
        everything, small, medium, large = range(4)
        expected = np.zeros((10, 4), dtype=bool)
        expected[:5, 2] = True  # IoU 0.71
        expected[5:, 3] = True
        for area in (everything, medium, small, large):
            np.testing.assert_array_equal(table.matched[area], expected)
        assert not table.ignored[everything].any()
        np.testing.assert_array_equal(table.ignored[small], np.tile([False, True, True, True], (10, 1)))
        np.testing.assert_array_equal(table.ignored[medium], np.tile([True, False, False, False], (10, 1)))
        assert table.truth_counted.tolist() == [[True], [False], [True], [False]]

    def test_from_arrays_gives_the_same_table(self):
        truth, results = random_case(6)
        table = match(truth, DetectionArrays.from_results(results))
        columns = {name: getattr(table, name) for name in MatchTable.__dataclass_fields__ if not name.endswith("_bits")}
        again = MatchTable.from_arrays(matched=table.matched, ignored=table.ignored, **columns)
        np.testing.assert_array_equal(again.matched_bits, table.matched_bits)
        np.testing.assert_array_equal(again.ignored_bits, table.ignored_bits)
        assert again.summary() == table.summary()

    def test_from_arrays_refuses_what_cannot_be(self):
        columns = {name: None for name in MatchTable.__dataclass_fields__ if not name.endswith("_bits")}
        matched, ignored = np.zeros((4, 10, 2), dtype=bool), np.zeros((4, 10, 2), dtype=bool)
        ignored[1, 3, 1] = True
        with pytest.raises(ValueError, match="detection 1 is unmatched and ignored at some"):
            MatchTable.from_arrays(matched=matched, ignored=ignored, **columns)
        with pytest.raises(ValueError, match="of one shape"):
            MatchTable.from_arrays(matched=matched, ignored=ignored[:, :9], **columns)

    def test_constants_are_pycocotools(self):
        from pycocotools.cocoeval import Params

        params = Params("bbox")
        np.testing.assert_array_equal(IOU_THRESHOLDS, params.iouThrs)
        np.testing.assert_array_equal(AREA_RANGES, params.areaRng)
        assert list(AREA_NAMES) == params.areaRngLbl

    def test_guards_and_unchanged_input(self):
        detections = DetectionArrays.from_results([HIT])
        with pytest.raises(ValueError, match="max_detections"):
            match(one_box(), detections, max_detections=0)
        with pytest.raises(DataError, match="unknown image id: 7"):
            match({**one_box(), "images": [{"id": 8}], "annotations": []}, detections)
        detections.scores[0] = np.nan
        with pytest.raises(DataError, match="score is not finite"):
            match(one_box(), detections)
