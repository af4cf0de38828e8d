"""Error types against tidecv's golden numbers, a plain-loop twin, and cases for a pencil."""

import numpy as np
import pytest
from error_cases import GOLDEN, detections_of, random_rows, truth_of

from fusion_det.errors import DataError
from fusion_det.evaluation import ranked_hits
from fusion_det.evaluation.coco_metrics import evaluate_boxes
from fusion_det.evaluation.error_types import CORRECT, ERROR_TYPES, MISSED, SPECIAL_TYPES, ErrorTable, find_errors
from fusion_det.evaluation.overlaps import find_overlaps

TIDE_NAMES = dict(zip((*ERROR_TYPES, *SPECIAL_TYPES), ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss", "FalsePos", "FalseNeg"), strict=True))
CLASSES = 7


def table_of(truth: list, found: list, *, images: int, classes: int = CLASSES, maximum=100, foreground=0.5, background=0.1) -> ErrorTable:
    overlaps = find_overlaps(truth_of(truth, images, classes), detections_of(found), minimum_iou=background, max_detections=maximum)
    return find_errors(overlaps, foreground_iou=foreground, background_iou=background)


def golden_table(golden: dict) -> ErrorTable:
    keys = ("images", "maximum", "foreground", "background")
    return table_of(golden["truth"], golden["found"], **{key: golden[key] for key in keys})


@pytest.mark.parametrize("name", GOLDEN)
class TestAgainstTidecv:
    def test_type_of_every_detection(self, name):
        golden = GOLDEN[name]
        table = golden_table(golden)
        kinds = [""] * len(golden["found"])
        for row, kind in zip(table.overlaps.row.tolist(), table.kind.tolist(), strict=True):
            kinds[row] = "correct" if kind == CORRECT else TIDE_NAMES[ERROR_TYPES[kind]]
        assert kinds == golden["expected"]["kinds"]
        assert sorted(table.overlaps.row[table.ignored].tolist()) == golden["expected"]["ignored"]
        assert (table.box_state == MISSED).sum() == len(golden["expected"]["missed"])

    def test_mean_ap_and_deltas(self, name):
        # tidecv orders equal scores differently before and after a repair, so sets with ties were made once more with the ties apart.
        golden = GOLDEN[name]
        expected = golden.get("expected_apart", golden["expected"])
        deltas = golden_table(golden).delta_ap(as_tidecv=True)
        assert 100 * deltas["AP"] == pytest.approx(expected["AP"], abs=1e-9)
        for ours, theirs in TIDE_NAMES.items():
            assert 100 * deltas[ours] == pytest.approx(expected[theirs], abs=1e-9), ours

    def test_ap_of_each_class_after_each_repair(self, name):
        golden = GOLDEN[name]
        expected = golden.get("expected_apart", golden["expected"])["per_class"]
        areas = golden_table(golden).average_precisions(as_tidecv=True)
        for ours, theirs in (TIDE_NAMES | {"as_is": "AP"}).items():
            found = {str(k): 100 * area for k, area in enumerate(areas[ours]) if not np.isnan(area)}
            assert found == pytest.approx(expected[theirs], abs=1e-9), ours


class TestAgainstPycocotools:
    @pytest.mark.parametrize("seed", range(10))
    def test_ap_is_cocos_ap50(self, seed):
        """Without crowds, whose borders differ by a ``>=``, and with fewer detections than either limit; also with equal scores."""
        truth, found = random_rows(seed, images=8)
        truth = [row for row in truth if not row[6]]
        metrics = evaluate_boxes(truth_of(truth, 8, 3), detections_of(found))
        assert table_of(truth, found, images=8, classes=3, maximum=None).delta_ap()["AP"] == pytest.approx(
            metrics.summary["AP50"], abs=1e-12
        )

    def test_seven_of_ten_boxes(self):
        """The recall points are COCO's to the bit: recall 0.7 is not reached by 7 of 10."""
        truth = [[image, 0, 0, 0, 10, 10, 0] for image in range(10)]
        found = [[image, 0, 0, 0, 10, 10, 0.5] for image in range(7)]
        metrics = evaluate_boxes(truth_of(truth, 10, 1), detections_of(found))
        assert table_of(truth, found, images=10, classes=1).delta_ap()["AP"] == pytest.approx(70 / 101, abs=1e-15)
        assert metrics.summary["AP50"] == pytest.approx(70 / 101, abs=1e-15)


def by_plain_loops(table: ErrorTable, weights: list[int], repair: str | None) -> float:
    """Mean AP over classes with one type of error put right; images are really repeated as often as their weight says."""
    overlaps = table.overlaps
    labels = range(len(overlaps.category_ids))
    points, boxes, had_boxes = {k: [] for k in labels}, dict.fromkeys(labels, 0), dict.fromkeys(labels, 0)
    for image, label, state in zip(overlaps.box_image, overlaps.box_label, table.box_state, strict=True):
        for _ in range(weights[image]):
            had_boxes[label] += 1
            gone = (repair == "missed" and state == MISSED) or (repair == "false_negative" and state != 0)
            boxes[label] += not gone
    for n in np.argsort(-overlaps.score, kind="stable"):
        kind = "correct" if table.kind[n] == CORRECT else ERROR_TYPES[table.kind[n]]
        label, hit, keep = overlaps.label[n], kind == "correct", not table.ignored[n]
        if kind == repair:
            keep = hit = bool(table.mends[n])
            if kind == "classification" and keep:
                label = overlaps.box_label[table.target[n]]
        for _ in range(weights[overlaps.image[n]] if keep else 0):
            points[label].append(hit)
    areas = []
    for label, hits in points.items():
        if not had_boxes[label] or (not boxes[label] and not hits):
            continue
        ordered = sorted(hits, reverse=True) if repair == "false_positive" else hits
        areas.append(area_by_plain_loops(ordered, boxes[label]))
    return float(np.mean(areas)) if areas else float("nan")


def area_by_plain_loops(hits: list[bool], boxes: int) -> float:
    """101-point AP of hits and misses in the order of score, as pycocotools goes about it."""
    if not boxes:
        return 0.0
    found, curve = 0, []
    for rank, hit in enumerate(hits, start=1):
        found += hit
        curve.append((found / boxes, found / rank))
    best = [max((p for r, p in curve if r >= point), default=0.0) for point in np.linspace(0, 1, 101)]
    return sum(best) / 101


class TestAgainstPlainLoops:
    @pytest.mark.parametrize("seed", range(12))
    def test_every_repair_with_and_without_weights(self, seed):
        truth, found = random_rows(seed, images=5, boxes=4, detections=8, digits=1 + seed % 3)
        table = table_of(truth, found, images=5, classes=3)
        resample = np.bincount(np.random.default_rng(seed).integers(0, 5, 5), minlength=5)
        for weights in (None, np.ones(5, np.int64), resample):
            deltas = table.delta_ap(weights)
            loops = [1] * 5 if weights is None else weights.tolist()
            as_is = by_plain_loops(table, loops, None)
            assert deltas["AP"] == pytest.approx(as_is, abs=1e-12, nan_ok=True)
            for name in TIDE_NAMES:
                assert deltas[name] == pytest.approx(by_plain_loops(table, loops, name) - as_is, abs=1e-12, nan_ok=True), name

    @pytest.mark.parametrize("seed", range(5))
    def test_a_weight_is_a_repeated_image(self, seed):
        """Scores all different, so that the copies of an image can stand anywhere."""
        truth, found = random_rows(seed, images=4, digits=12)
        weights = np.random.default_rng(seed).integers(0, 4, 4)
        copies = np.repeat(np.arange(4), weights).tolist()
        again = [[[new, *row[1:]] for new, old in enumerate(copies) for row in rows if row[0] == old] for rows in (truth, found)]
        repeated = table_of(*again, images=max(1, len(copies)), classes=3).delta_ap()
        assert table_of(truth, found, images=4, classes=3).delta_ap(weights) == pytest.approx(repeated, abs=1e-12, nan_ok=True)

    def test_replicates_are_one_delta_for_each_row(self):
        truth, found = random_rows(0)
        table = table_of(truth, found, images=6, classes=3)
        weights = np.random.default_rng(0).multinomial(6, [1 / 6] * 6, size=3)
        replicates = table.replicates(weights)
        assert {name: values[2] for name, values in replicates.items()} == table.delta_ap(weights[2])
        assert replicates["AP"].shape == (3,)


def only(name: str, gain: float, **others: float) -> dict[str, float]:
    return dict.fromkeys(TIDE_NAMES, 0.0) | {name: gain} | others


BOX = [0, 0, 100, 100]
FAR = [500, 500, 100, 100]
CASES = {
    "found": ([[0, 0, *BOX, 0]], [[0, 0, *BOX, 0.9]], 1.0, dict.fromkeys(TIDE_NAMES, 0.0)),
    # The right class gains everything; the class of the detection has no boxes and no say. Without its box the right class is no more.
    "wrong class": ([[0, 0, *BOX, 0]], [[0, 1, *BOX, 0.9]], 0.0, only("classification", 1.0, false_negative=float("nan"))),
    # IoU 40 / 160 = 0.25.
    "shifted": ([[0, 0, *BOX, 0]], [[0, 0, 60, 0, 100, 100, 0.9]], 0.0, only("localisation", 1.0)),
    "twice": (
        [[0, 0, *BOX, 0], [0, 0, *FAR, 0]],
        [[0, 0, *BOX, 0.9], [0, 0, *BOX, 0.8], [0, 0, *FAR, 0.7]],
        (51 + 50 * 2 / 3) / 101,
        only("duplicate", 50 / 3 / 101, false_positive=50 / 3 / 101),
    ),
    "background": (
        [[0, 0, *BOX, 0]],
        [[0, 0, *FAR, 0.9], [0, 0, *BOX, 0.8]],
        0.5,
        only("background", 0.5, false_positive=0.5),
    ),
    # Of two boxes one is found: recall 0.5, that is 51 of the 101 points.
    "missed": ([[0, 0, *BOX, 0], [0, 0, *FAR, 0]], [[0, 0, *BOX, 0.9]], 51 / 101, only("missed", 50 / 101, false_negative=50 / 101)),
    # Wrong class at IoU 0.25: neither type alone would do.
    "both": (
        [[0, 0, *BOX, 0], [0, 1, *FAR, 0]],
        [[0, 1, 60, 0, 100, 100, 0.9], [0, 1, *FAR, 0.8], [0, 0, 0, 0, 100, 100, 0.5]],
        0.75,
        only("both", 0.25, false_positive=0.25),
    ),
    # Ignored: unmatched, of the crowd's class, and wholly inside it.
    "in a crowd": ([[0, 0, *BOX, 0], [0, 0, *FAR, 1]], [[0, 0, *FAR, 0.9], [0, 0, *BOX, 0.8]], 1.0, dict.fromkeys(TIDE_NAMES, 0.0)),
    # Ignored all the same, but with IoU 0.25 to a box that nothing else finds: moved there, it is right (and the crowd then unused).
    "in a crowd, near a box": (
        [[0, 0, *BOX, 0], [0, 0, 0, 0, 200, 200, 1]],
        [[0, 0, 60, 0, 100, 100, 0.9]],
        0.0,
        only("localisation", 1.0, false_negative=float("nan")),
    ),
    "wrong class at exactly 0.5": (
        [[0, 0, *BOX, 0]],
        [[0, 1, 0, 0, 100, 50, 0.9]],
        0.0,
        only("classification", 1.0, false_negative=float("nan")),
    ),
    "right class at exactly 0.1": ([[0, 0, *BOX, 0]], [[0, 0, 0, 0, 100, 10, 0.9]], 0.0, only("localisation", 1.0)),
    # The box of class 1 is there so that the detection's own class has AP.
    "wrong class at exactly 0.1": (
        [[0, 0, *BOX, 0], [0, 1, *FAR, 0]],
        [[0, 1, 0, 0, 100, 10, 0.9], [0, 1, *FAR, 0.8], [0, 0, *BOX, 0.7]],
        0.75,
        only("background", 0.25, false_positive=0.25),
    ),
    "crowd of another class": (
        [[0, 0, *BOX, 0], [0, 1, *FAR, 1]],
        [[0, 0, *FAR, 0.9], [0, 0, *BOX, 0.8]],
        0.5,
        only("background", 0.5, false_positive=0.5),
    ),
}


class TestByHand:
    @pytest.mark.parametrize("name", CASES)
    def test_case(self, name):
        truth, found, ap, gains = CASES[name]
        deltas = table_of(truth, found, images=1, classes=2).delta_ap()
        assert deltas.pop("AP") == pytest.approx(ap, abs=1e-12)
        assert deltas == pytest.approx(gains, abs=1e-12, nan_ok=True)

    def test_of_two_boxes_the_nearer_is_taken(self):
        truth = [[0, 0, 20, 0, 100, 100, 0], [0, 0, *BOX, 0]]
        assert table_of(truth, [[0, 0, 5, 0, 100, 100, 0.9]], images=1).target.tolist() == [1]

    def test_the_best_error_at_a_box_mends_it_and_the_others_go(self):
        truth = [[0, 0, *BOX, 0]]
        found = [[0, 0, 60, 0, 100, 100, 0.5], [0, 0, 55, 0, 100, 100, 0.6], [0, 1, *BOX, 0.4]]
        table = table_of(truth, found, images=1, classes=2)
        assert table.overlaps.row.tolist() == [1, 0, 2]
        assert table.mends.tolist() == [True, False, False]
        assert table.delta_ap()["localisation"] == 1.0
        assert table.delta_ap()["classification"] == 0.0

    def test_counts(self):
        truth = [[0, 0, *BOX, 0], [0, 1, *FAR, 0], [0, 0, 300, 0, 100, 100, 1]]
        found = [[0, 0, *BOX, 0.9], [0, 0, *BOX, 0.8], [0, 0, 300, 0, 50, 50, 0.7], [0, 0, 60, 0, 100, 100, 0.6]]
        counts = table_of(truth, found, images=1, classes=2).counts()
        assert counts == {
            "correct": 1, "classification": 0, "localisation": 1, "both": 0, "duplicate": 1, "background": 0, "missed": 1, "ignored": 1,
        }  # fmt: skip


class TestEdges:
    def test_no_detections(self):
        deltas = table_of([[0, 0, *BOX, 0]], [], images=1, classes=2).delta_ap()
        assert deltas["AP"] == 0
        assert {k for k, v in deltas.items() if np.isnan(v)} == {"missed", "false_negative"}

    def test_no_boxes(self):
        table = table_of([], [[0, 0, *BOX, 0.9]], images=1, classes=2)
        assert all(np.isnan(value) for value in table.delta_ap().values())
        as_tidecv = table.delta_ap(as_tidecv=True)  # the class of the detection counts as 0, until that is put right
        assert as_tidecv == pytest.approx(only("background", float("nan"), AP=0.0), nan_ok=True)
        assert table.counts()["background"] == 1

    def test_nothing_at_all(self):
        table = table_of([], [], images=1, classes=1)
        assert all(np.isnan(value) for value in table.delta_ap().values())
        assert set(table.counts().values()) == {0}

    def test_unknown_category(self):
        with pytest.raises(DataError, match="unknown category id"):
            table_of([[0, 0, *BOX, 0]], [[0, 5, *BOX, 0.9]], images=1, classes=2)

    @pytest.mark.parametrize("weights", [np.ones(2, np.int64), np.ones(1), np.array([-1])])
    def test_weights_that_are_none(self, weights):
        with pytest.raises(ValueError, match="weights: expected 1 integers"):
            table_of([[0, 0, *BOX, 0]], [], images=1).delta_ap(weights)

    @pytest.mark.parametrize(("foreground", "background"), [(0.5, 0.6), (1.5, 0.1)])
    def test_thresholds_in_the_wrong_order(self, foreground, background):
        with pytest.raises(ValueError, match="background_iou <= foreground_iou"):
            table_of([[0, 0, *BOX, 0]], [], images=1, foreground=foreground, background=background)

    @pytest.mark.parametrize("changes", [{"minimum_iou": 0.0}, {"max_detections": 0}])
    def test_overlaps_of_nothing(self, changes):
        with pytest.raises(ValueError, match=next(iter(changes))):
            find_overlaps(truth_of([], 1, 1), detections_of([]), **changes)


def test_hits_needed_is_the_division_of_floats():
    counts = np.arange(1, 400)
    needed = ranked_hits.hits_needed(counts)
    for count, row in zip(counts.tolist(), needed, strict=True):
        recalls = np.arange(count + 1) / count
        assert row.tolist() == np.searchsorted(recalls, ranked_hits.RECALL_POINTS).tolist()
