"""Calibration, and precision and recall by score threshold, against plain loops and cases for a pencil."""

import numpy as np
import pytest
from error_cases import detections_of, random_rows, truth_of

from fusion_det.evaluation.calibration import calibration
from fusion_det.evaluation.error_types import CORRECT, ErrorTable, find_errors
from fusion_det.evaluation.overlaps import find_overlaps
from fusion_det.evaluation.score_thresholds import score_thresholds

BOX, FAR = [0, 0, 100, 100], [500, 500, 100, 100]


def table_of(truth, found, *, images=1, classes=1) -> ErrorTable:
    return find_errors(find_overlaps(truth_of(truth, images, classes), detections_of(found)))


def hits_and_misses(scores_of_hits, scores_of_misses) -> ErrorTable:
    """One image per detection, each with a box; hits are on it."""
    scores = [*scores_of_hits, *scores_of_misses]
    truth = [[image, 0, *BOX, 0] for image in range(len(scores))]
    found = [[i, 0, *(BOX if i < len(scores_of_hits) else FAR), score] for i, score in enumerate(scores)]
    return table_of(truth, found, images=len(scores))


class TestCalibration:
    def test_by_hand(self):
        # Bin 0.8-0.9: scores 0.8 and 0.88, one right: |0.5 - 0.84| * 2; bin 0.2-0.3: score 0.25, wrong: 0.25. Together over 3.
        result = calibration(hits_and_misses([0.88], [0.8, 0.25]))
        assert result.error == pytest.approx((2 * 0.34 + 0.25) / 3)
        assert result.excess == pytest.approx((0.88 + 0.8 + 0.25 - 1) / 3)
        assert result.count.tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 2, 0]
        assert result.precision[8] == 0.5
        assert result.mean_score[8] == pytest.approx(0.84)

    def test_a_calibrated_detector_has_no_error(self):
        result = calibration(hits_and_misses([0.75] * 3 + [0.25], [0.75] + [0.25] * 3), bins=4)
        assert result.error == pytest.approx(0)
        assert result.excess == pytest.approx(0)

    def test_the_ends_of_the_bins(self):
        result = calibration(hits_and_misses([0.0, 0.1, 1.0], []))
        assert result.count.tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 1]

    @pytest.mark.parametrize("seed", range(6))
    def test_against_plain_loops(self, seed):
        truth, found = random_rows(seed)
        table = table_of(truth, found, images=6, classes=3)
        result = calibration(table, bins=7, minimum_score=0.1)
        members = [
            (label, score, kind == CORRECT)
            for label, score, kind, ignored in zip(table.overlaps.label, table.overlaps.score, table.kind, table.ignored, strict=True)
            if not ignored and score >= 0.1
        ]
        for chosen, found_error in ((None, result.error), *((k, result.per_class[f"class {k}"]["error"]) for k in range(3))):
            some = [m for m in members if chosen is None or m[0] == chosen]
            expected = 0.0
            for m in range(7):
                bin_members = [(score, right) for _, score, right in some if m / 7 <= score < (m + 1) / 7 or (m == 6 and score == 1)]
                if bin_members:
                    scores, rights = zip(*bin_members, strict=True)
                    expected += len(bin_members) / len(some) * abs(np.mean(rights) - np.mean(scores))
            assert found_error == pytest.approx(expected, abs=1e-12)

    def test_no_detections(self):
        result = calibration(table_of([[0, 0, *BOX, 0]], []))
        assert result.error is None
        assert result.as_dict()["bins"][0] == {"from": 0.0, "to": 0.1, "detections": 0, "mean_score": None, "precision": None}
        assert result.table() == "calibration: no detections"

    def test_ignored_detections_have_no_say(self):
        assert calibration(table_of([[0, 0, *BOX, 1]], [[0, 0, *BOX, 0.9]])).count.sum() == 0

    def test_scores_that_are_no_probabilities(self):
        with pytest.raises(ValueError, match=r"scores from 0 to 1, got 0\.5 to 3"):
            calibration(hits_and_misses([3.0], [0.5]))


class TestScoreThresholds:
    def test_by_hand(self):
        # Four boxes. Shown >= 0.9: 1 of 1, F1 2/5. >= 0.8: 2 of 2, 4/6. >= 0.7: 2 of 3, 4/7. >= 0.6: 3 of 4, 6/8.
        result = score_thresholds(hits_and_misses([0.9, 0.8, 0.6], [0.7]))
        assert result.best == {"threshold": 0.6, "precision": 0.75, "recall": 0.75, "F1": 0.75, "detections": 4}
        at_three_quarters = next(point for point in result.curve if point["threshold"] == 0.75)
        assert at_three_quarters == {"threshold": 0.75, "precision": 1.0, "recall": 0.5, "F1": pytest.approx(2 / 3), "detections": 2}
        assert result.best_per_class == {"class 0": result.best}

    def test_equal_scores_are_shown_together(self):
        # The first of the equals is a hit; a threshold between them does not exist.
        assert score_thresholds(hits_and_misses([0.5], [0.5, 0.5])).best["detections"] == 3

    @pytest.mark.parametrize("seed", range(6))
    def test_against_plain_loops(self, seed):
        truth, found = random_rows(seed, digits=1)
        table = table_of(truth, found, images=6, classes=3)
        result = score_thresholds(table)
        for label in range(3):
            chosen = (table.overlaps.label == label) & ~table.ignored
            boxes = int((table.overlaps.box_label == label).sum())
            best = (0.0, 0.0)
            for threshold in sorted(set(table.overlaps.score[chosen].tolist())):
                shown = chosen & (table.overlaps.score >= threshold)
                hits = int((table.kind[shown] == CORRECT).sum())
                best = max(best, (2 * hits / (int(shown.sum()) + boxes), threshold))
            assert (result.best_per_class[f"class {label}"]["F1"], result.best_per_class[f"class {label}"]["threshold"]) == best

    def test_without_boxes_or_detections(self):
        nothing = {"threshold": None, "precision": None, "recall": None, "F1": None, "detections": 0}
        assert score_thresholds(table_of([], [])).best == nothing
        assert score_thresholds(table_of([[0, 0, *BOX, 0]], [])).best == nothing | {"recall": 0.0, "F1": 0.0}
        assert score_thresholds(table_of([], [[0, 0, *BOX, 0.9]])).best == nothing
        assert "best, all classes" in score_thresholds(table_of([], [])).table()
