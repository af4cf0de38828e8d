"""The confusion matrix against a plain-loop twin and cases for a pencil."""

import numpy as np
import pytest
from error_cases import detections_of, random_rows, truth_of

from fusion_det.evaluation.confusion_matrix import confusion_matrix
from fusion_det.evaluation.error_types import CORRECT, find_errors
from fusion_det.evaluation.overlaps import find_overlaps

BOX, FAR = [0, 0, 100, 100], [500, 500, 100, 100]


def matrix_of(truth, found, *, score=0.0, iou=0.5, classes=2, images=1):
    return confusion_matrix(find_overlaps(truth_of(truth, images, classes), detections_of(found)), score_threshold=score, iou_threshold=iou)


def plain_iou(a, b, crowd=False):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = width * height if width > 0 and height > 0 else 0.0
    return both / (a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - both)


def by_plain_loops(truth, found, *, score, iou, classes):
    counts, ignored = np.zeros((classes + 1, classes + 1), np.int64), 0
    for image in {row[0] for row in truth + found}:
        boxes = [row[1:] for row in truth if row[0] == image and not row[6]]
        crowds = [row[1:] for row in truth if row[0] == image and row[6]]
        shown = sorted((row[1:] for row in found if row[0] == image and row[6] >= score), key=lambda row: -row[5])
        partner, free = [None] * len(shown), [True] * len(boxes)
        for same_class in (True, False):
            for d, detection in enumerate(shown):
                in_crowd = any(c[0] == detection[0] and plain_iou(detection[1:5], c[1:5], crowd=True) > iou for c in crowds)
                if partner[d] is not None or (not same_class and in_crowd):
                    continue
                best = None
                for b, box in enumerate(boxes):
                    overlap = plain_iou(detection[1:5], box[1:5])
                    if free[b] and overlap >= iou and (not same_class or box[0] == detection[0]) and (best is None or overlap > best[0]):
                        best = (overlap, b)
                if best:
                    partner[d], free[best[1]] = best[1], False
        for d, detection in enumerate(shown):
            if partner[d] is not None:
                counts[boxes[partner[d]][0], detection[0]] += 1
            elif any(c[0] == detection[0] and plain_iou(detection[1:5], c[1:5], crowd=True) > iou for c in crowds):
                ignored += 1
            else:
                counts[classes, detection[0]] += 1
        for b, box in enumerate(boxes):
            counts[box[0], classes] += free[b]
    return counts, ignored


class TestAgainstPlainLoops:
    @pytest.mark.parametrize("seed", range(15))
    def test_counts(self, seed):
        truth, found = random_rows(seed, images=5, digits=1 + seed % 2)
        score, iou = (0.0, 0.5) if seed % 3 else (0.4, 0.3)
        expected, ignored = by_plain_loops(truth, found, score=score, iou=iou, classes=3)
        matrix = matrix_of(truth, found, score=score, iou=iou, classes=3, images=5)
        assert matrix.counts.tolist() == expected.tolist()
        assert matrix.ignored == ignored

    @pytest.mark.parametrize("seed", range(5))
    def test_sums(self, seed):
        """The diagonal is what the error analysis calls correct; rows are boxes and columns are detections."""
        truth, found = random_rows(seed)
        overlaps = find_overlaps(truth_of(truth, 6, 3), detections_of(found))
        matrix, errors = confusion_matrix(overlaps, score_threshold=0.3), find_errors(overlaps)
        correct = overlaps.label[(errors.kind == CORRECT) & (overlaps.score >= 0.3)]
        assert np.diag(matrix.counts)[:3].tolist() == np.bincount(correct, minlength=3).tolist()
        assert (matrix.repeats.sum(axis=0) <= matrix.counts[3, :3]).all()
        assert matrix.counts[:3].sum(axis=1).tolist() == np.bincount(overlaps.box_label, minlength=3).tolist()
        assert matrix.counts.sum() - matrix.counts[:3, 3].sum() + matrix.ignored == (overlaps.score >= 0.3).sum()


class TestByHand:
    def test_found_confused_missed_and_nothing(self):
        truth = [[0, 0, *BOX, 0], [0, 1, *FAR, 0], [0, 1, 300, 0, 50, 50, 0]]
        found = [[0, 0, *BOX, 0.9], [0, 0, *FAR, 0.8], [0, 1, 0, 400, 50, 50, 0.7], [0, 0, *BOX, 0.2]]
        assert matrix_of(truth, found).counts.tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 0]]
        assert matrix_of(truth, found, score=0.75).counts.tolist() == [[1, 0, 0], [1, 0, 1], [0, 0, 0]]

    def test_the_right_class_comes_before_the_higher_score(self):
        truth = [[0, 0, *BOX, 0]]
        found = [[0, 1, *BOX, 0.9], [0, 0, 5, 0, 100, 100, 0.3]]
        assert matrix_of(truth, found).counts.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]

    def test_a_crowd_comes_before_another_class(self):
        matrix = matrix_of([[0, 0, *BOX, 0], [0, 1, 0, 0, 200, 200, 1]], [[0, 1, *BOX, 0.9]])
        assert matrix.counts.tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
        assert matrix.ignored == 1

    def test_confusions(self):
        """Image 0: found, and found again; 1 and 2: the wrong class; 3: found, and called the wrong class too; 4: not found."""
        truth = [[image, 0, *BOX, 0] for image in range(5)]
        found = [[image, int(image in (1, 2)), *BOX, 0.9] for image in range(4)]
        found += [[0, 0, *BOX, 0.8], [3, 1, *BOX, 0.95], [4, 1, *FAR, 0.9]]
        matrix = matrix_of(truth, found, images=5)
        assert matrix.confusions() == [("class 0", "class 1", 2, 1)]
        assert "of 5 boxes: 2 found, 2 taken for another class, 1 not found;" in matrix.table()
        assert "other detections: 1 more of boxes that are found, 1 of such boxes with another class, 1 of nothing" in matrix.table()
        assert matrix.as_dict()["counts"] == [[2, 2, 1], [0, 0, 0], [1, 2, 0]]
        assert matrix.as_dict()["repeats"] == [[1, 1], [0, 0]]

    def test_nothing_at_all(self):
        matrix = matrix_of([], [])
        assert matrix.counts.tolist() == [[0] * 3] * 3
        assert matrix.confusions() == []

    def test_iou_below_what_was_kept(self):
        with pytest.raises(ValueError, match="iou_threshold"):
            matrix_of([], [], iou=0.05)
