"""Levels and the report that brings all parts of the error analysis together."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from error_cases import detections_of, random_rows, truth_of
from tiny_checkpoint import tiny_state

from fusion_det.config.cli import main
from fusion_det.engine.checkpoint import save_checkpoint
from fusion_det.evaluation.coco_metrics import evaluate_boxes
from fusion_det.evaluation.error_report import error_report
from fusion_det.evaluation.error_types import CORRECT, find_errors
from fusion_det.evaluation.levels import NO_LEVELS, level_names, level_table
from fusion_det.evaluation.overlaps import find_overlaps
from fusion_det.evaluation.truth_arrays import TruthArrays

SMALL, LARGE = [0, 0, 20, 20], [200, 200, 200, 200]
TRUTH = [[0, 0, *SMALL, 0], [0, 0, *LARGE, 0], [0, 0, 100, 0, 50, 50, 0]]
FOUND = [[0, 0, *SMALL, 0.9], [0, 0, *LARGE, 0.8], [0, 0, 100, 0, 50, 50, 0.7], [0, 0, *LARGE, 0.6], [0, 0, 0, 500, 40, 40, 0.5]]


def levels_of(truth, found, levels, *, images=1, classes=1, **options):
    ground_truth, detections = truth_of(truth, images, classes), detections_of(found)
    truth = TruthArrays.of(ground_truth, [])
    return level_table(find_errors(find_overlaps(truth, detections)), truth, detections, levels, **options)


class TestLevels:
    def test_by_hand(self):
        table = levels_of(TRUTH, FOUND, ["P3", "P5", "P4", "P4", "P3"])
        assert table.levels == ("P3", "P4", "P5")
        assert table.detections.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 1]]
        assert table.found.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
        assert table.boxes.tolist() == [1, 1, 1]
        assert table.kinds.tolist() == [[1, 0, 0, 0, 0, 1], [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0]]
        # P4 alone finds the middle box and the large one, which P5 found before: two of three boxes, 67 of 101 recall points.
        assert table.alone[1] == pytest.approx({"AP": 67 / 101, "AP50": 67 / 101, "APs": 0.0, "APm": 1.0, "APl": 1.0})
        assert table.as_dict()["levels"]["P3"]["recall"] == {"small": 1.0, "medium": 0.0, "large": 0.0}

    @pytest.mark.parametrize("seed", range(4))
    def test_against_plain_loops(self, seed):
        truth, found = random_rows(seed)
        names = [f"P{3 + i % 3}" for i in range(len(found))]
        ground_truth, detections = truth_of(truth, 6, 3), detections_of(found)
        errors = find_errors(find_overlaps(ground_truth, detections))
        table = level_table(errors, TruthArrays.of(ground_truth, []), detections, names)
        expected = np.zeros((3, 3), np.int64)
        for row, kind, target in zip(errors.overlaps.row, errors.kind, errors.target, strict=True):
            if kind == CORRECT:
                area = errors.overlaps.box_area[target]
                expected[row % 3, int(area >= 1024) + int(area >= 9216)] += 1
        assert table.found.tolist() == expected.tolist()
        for i in range(3):
            metrics = evaluate_boxes(ground_truth, detections_of(found[i::3])).summary
            assert table.alone[i] == pytest.approx({name: metrics[name] for name in table.alone[i]}, abs=1e-12)

    def test_ignored_detections_are_of_no_kind(self):
        table = levels_of([[0, 0, *LARGE, 1]], [[0, 0, *LARGE, 0.9]], ["P3"])
        assert table.detections.sum() == 1
        assert table.kinds.sum() == 0

    def test_order_and_unknown(self):
        five = ["P10", None, "P4", "P4", "C3"]
        assert levels_of(TRUTH, FOUND, five).levels == ("C3", "P4", "P10", "unknown")
        assert levels_of(TRUTH, FOUND, five, order=["P10", "P9"]).levels == ("P10", "C3", "P4", "unknown")

    def test_foreign_files_have_no_levels(self):
        assert levels_of(TRUTH, FOUND, level_names([{"image_id": 1}] * 5)) == NO_LEVELS
        assert levels_of(TRUTH, [], []) == NO_LEVELS
        assert level_names([{"level": "P3"}, {"level": 7}, {}]) == ("P3", None, None)

    def test_one_level_per_detection(self):
        with pytest.raises(ValueError, match="expected one for each of 5 detections, got 1"):
            levels_of(TRUTH, FOUND, ["P3"])


class TestErrorReport:
    @pytest.mark.parametrize(("truth", "found"), [(TRUTH, FOUND), (TRUTH, []), ([], FOUND), ([], []), random_rows(3, images=1)], ids=str)
    def test_every_case_has_numbers_and_text(self, truth, found):
        levels = ["P3"] * len(found)
        report = error_report(truth_of(truth, 1, 3), detections_of(found), levels=levels)
        saved = json.loads(json.dumps(report.as_dict(), allow_nan=False))
        assert set(saved) == {
            "foreground_iou", "background_iou", "max_detections_per_image", "delta_ap", "counts", "per_class", "sizes", "score_thresholds",
            "confusion", "calibration", "levels",
        }  # fmt: skip
        assert sum(size["boxes"] for size in saved["sizes"].values()) == sum(not row[6] for row in truth)
        assert sum(saved["counts"].values()) - saved["counts"]["missed"] == len(found)
        assert "AP at IoU 0.5 is" in report.table()

    def test_numbers(self):
        report = error_report(truth_of(TRUTH, 1, 2), detections_of(FOUND), levels=["P3", "P5", "P4", "P4", "P3"]).as_dict()
        assert report["delta_ap"]["AP"] == 1.0
        assert report["counts"] == {
            "correct": 3, "classification": 0, "localisation": 0, "both": 0, "duplicate": 1, "background": 1, "missed": 0, "ignored": 0,
        }  # fmt: skip
        assert report["per_class"]["class 1"]["AP"] is None
        assert report["score_thresholds"]["best"]["threshold"] == report["confusion"]["score_threshold"] == 0.7
        assert report["confusion"]["counts"] == [[3, 0, 0], [0, 0, 0], [0, 0, 0]]
        assert list(report["levels"]["levels"]) == ["P3", "P4", "P5"]

    def test_parts_that_cannot_be_made_say_why(self):
        report = error_report(truth_of(TRUTH, 1, 1), detections_of([[*row[:6], row[6] * 10] for row in FOUND]))
        assert report.as_dict()["levels"] == {"missing": NO_LEVELS}
        assert report.as_dict()["calibration"] == {"missing": "no calibration: expected scores from 0 to 1, got 5 to 9"}
        assert NO_LEVELS in report.table()

    def test_class_names_do_not_steer_the_terminal(self):
        truth = truth_of([*TRUTH, [0, 1, 100, 0, 50, 50, 0]], 1, 2)
        truth["categories"][0]["name"] = "a\x1b[2J\nb"
        found = [[*row[:1], 1, *row[2:]] for row in FOUND]
        table = error_report(truth, detections_of(found), levels=["P3\x1b"] * 5).table()
        assert "\x1b" not in table
        assert "a?[2J?b taken for class 1" in table


def test_works_without_torch():
    script = "import sys, fusion_det.evaluation.error_report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


class TestEvaluateTool:
    def test_of_files(self, tmp_path, caplog):
        records = [
            {"image_id": 10, "category_id": 7, "bbox": row[2:6], "score": row[6], "level": level}
            for row, level in zip(FOUND, ["P3", "P5", "P4", "P4", "P3"], strict=True)
        ]
        (tmp_path / "gt.json").write_text(json.dumps(truth_of(TRUTH, 1, 1)))
        (tmp_path / "dt.json").write_text(json.dumps(records))
        words = [f"gt={tmp_path / 'gt.json'}", f"dt={tmp_path / 'dt.json'}"]
        assert main("evaluate", [*words, f"output={tmp_path / 'plain'}"]) == 0
        assert "errors" not in json.loads((tmp_path / "plain" / "results.json").read_text())
        assert main("evaluate", [*words, f"output={tmp_path / 'full'}", "errors=true"]) == 0
        results = json.loads((tmp_path / "full" / "results.json").read_text())
        assert results["summary"]["AP50"] == results["errors"]["delta_ap"]["AP"] == 1.0
        assert list(results["errors"]["levels"]["levels"]) == ["P3", "P4", "P5"]
        assert "if one type of error were put right" in caplog.text

    def test_of_a_checkpoint(self, coco_root, tmp_path):
        torch.set_num_threads(1)
        save_checkpoint(tmp_path / "tiny.pt", tiny_state(coco_root, seed=1))
        words = [f"checkpoint={tmp_path / 'tiny.pt'}", f"output={tmp_path / 'out'}", "device=cpu", "workers=0", "errors=true"]
        assert main("evaluate", words) == 0
        results = json.loads((tmp_path / "out" / "results.json").read_text())
        assert results["errors"]["delta_ap"]["AP"] == pytest.approx(results["summary"]["AP50"], abs=0.2)  # crowds are not quite the same
        assert set(results["errors"]["levels"]["levels"]) <= {"P3", "P4", "P5", "P6", "P7"}
        assert sum(results["errors"]["counts"].values()) > 0
