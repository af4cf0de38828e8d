"""Each method on a case small enough for paper and pencil."""

from __future__ import annotations

import math

import pytest
import torch
from late_fusion_cases import METHODS, method, raw, rows
from torchvision.ops import nms

A, B = [0, 0, 10, 10], [0, 0, 10, 8]  # IoU 80 / 100 = 0.8
FAR = [50, 50, 60, 60]


def scores(found):
    return [row["score"] for row in found]


def test_nms_drops_what_overlaps_more_than_the_threshold_only() -> None:
    given = raw([A, B, FAR], [0.9, 0.8, 0.7])
    assert scores(rows(method("nms", iou_threshold=0.79)([given]))) == pytest.approx([0.9, 0.7])
    assert scores(rows(method("nms", iou_threshold=0.81)([given]))) == pytest.approx([0.9, 0.8, 0.7])


def test_nms_a_suppressed_box_suppresses_nothing() -> None:
    """Each of a row of four overlaps its neighbours by 6 / 14 of the union, and nobody else by more than 2 / 18."""
    row = [[4 * i, 0, 4 * i + 10, 10] for i in range(4)]
    found = rows(method("nms", iou_threshold=0.4)([raw(row, [0.9, 0.8, 0.7, 0.6])]))
    assert scores(found) == pytest.approx([0.9, 0.7])


def test_nms_at_exactly_the_threshold_is_as_in_torchvision() -> None:
    """The IoU is 6 / 10; float32 has no 0.6 and torchvision compares the nearest, which is larger, with the double."""
    boxes, values = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6]]), torch.tensor([0.9, 0.8])
    for threshold in (0.6, 0.5, 0.6000001, 0.5999999):
        mine = rows(method("nms", iou_threshold=threshold)([raw(boxes.tolist(), values.tolist())]))
        assert len(mine) == len(nms(boxes, values, threshold)), threshold


def test_per_level_nms_then_joint() -> None:
    """The best box (level 0) suppresses b (level 1) jointly, and then c stays; inside level 1, b suppresses c first, and then goes too."""
    a, b, c = [0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]
    given = raw([a, b, c], [0.9, 0.8, 0.7], levels=[0, 1, 1])
    joint = rows(method("nms", iou_threshold=0.4)([given]))
    first = rows(method("nms", iou_threshold=0.4, per_level=True)([given]))
    assert [row["box"] for row in joint] == [a, c]
    assert [row["box"] for row in first] == [a]


def test_soft_nms_linear_and_gaussian() -> None:
    given = raw([A, B, FAR], [0.9, 0.8, 0.7])
    linear = rows(method("soft_nms", method="linear")([given]))
    assert [(row["box"], row["score"]) for row in linear] == [(A, pytest.approx(0.9)), (FAR, pytest.approx(0.7)), (B, pytest.approx(0.16))]
    gaussian = rows(method("soft_nms")([given]))
    assert scores(gaussian) == pytest.approx([0.9, 0.7, 0.8 * math.exp(-(0.8**2) / 0.5)])
    dropped = rows(method("soft_nms", method="linear", score_threshold=0.2)([given]))
    assert scores(dropped) == pytest.approx([0.9, 0.7])
    spared = rows(method("soft_nms", method="linear", iou_threshold=0.85)([given]))
    assert scores(spared) == pytest.approx([0.9, 0.8, 0.7])


def test_soft_nms_takes_the_next_best_after_the_decay() -> None:
    """b (0.85) falls to 0.85 * 0.2 = 0.17 behind c (0.5), which overlaps b by 40 / 80 and takes another half of it."""
    a, b, c = [0, 0, 10, 10], [0, 0, 10, 8], [0, 4, 10, 8]  # a-b 0.8, a-c 0.4, b-c 0.5
    found = rows(method("soft_nms", method="linear")([raw([a, b, c], [0.9, 0.85, 0.5])]))
    assert [row["box"] for row in found] == [a, c, b]
    assert scores(found) == pytest.approx([0.9, 0.5 * 0.6, 0.85 * 0.2 * 0.5])


def test_matrix_nms_compensates_for_rivals_that_are_suppressed_themselves() -> None:
    """c overlaps a by 0.4 and b by 0.5, but b itself is in doubt: m_b = 0.8, so (1 - 0.5) / (1 - 0.8) does not count."""
    a, b, c = [0, 0, 10, 10], [0, 0, 10, 8], [0, 4, 10, 8]
    given = raw([a, b, c], [0.9, 0.8, 0.5])
    linear = rows(method("matrix_nms", method="linear", score_threshold=0.0)([given]))
    assert {tuple(row["box"]): row["score"] for row in linear} == {
        tuple(a): pytest.approx(0.9),
        tuple(b): pytest.approx(0.8 * 0.2),
        tuple(c): pytest.approx(0.5 * 0.6),
    }
    gaussian = rows(method("matrix_nms", sigma=2.0, score_threshold=0.0)([given]))
    assert sorted(scores(gaussian)) == pytest.approx(sorted([0.9, 0.8 * math.exp(-2 * 0.64), 0.5 * math.exp(-2 * 0.16)]))
    assert len(rows(method("matrix_nms", method="linear", score_threshold=0.2)([given]))) == 2


def test_matrix_nms_of_identical_boxes() -> None:
    found = rows(method("matrix_nms", method="linear", score_threshold=0.0)([raw([A, A, A], [0.9, 0.8, 0.7])]))
    assert scores(found) == pytest.approx([0.9, 0, 0])


def test_diou_nms_spares_boxes_with_other_centres() -> None:
    """Side by side: IoU 60 / 140 = 0.4286; centres 4 apart in a frame of 14 x 10, distance term 16 / 296 = 0.054. B in A: 1 / 200."""
    beside = [4, 0, 14, 10]
    given = raw([A, beside], [0.9, 0.8])
    assert len(rows(method("nms", iou_threshold=0.4)([given]))) == 1
    assert len(rows(method("diou_nms", threshold=0.4)([given]))) == 2
    assert len(rows(method("diou_nms", threshold=0.37)([given]))) == 1
    assert len(rows(method("diou_nms", threshold=0.37, beta=0.5)([given]))) == 2  # 0.4286 - sqrt(0.054) = 0.196
    assert len(rows(method("diou_nms", threshold=0.794)([raw([A, B], [0.9, 0.8])]))) == 1  # 0.8 - 0.005 = 0.795
    assert len(rows(method("diou_nms", threshold=0.796)([raw([A, B], [0.9, 0.8])]))) == 2


def test_voting_moves_the_kept_box_and_leaves_its_score() -> None:
    (row,) = rows(method("voting")([raw([A, B], [0.9, 0.3])]))
    assert row["score"] == pytest.approx(0.9)
    assert row["box"] == pytest.approx([0, 0, 10, (10 * 0.9 + 8 * 0.3) / 1.2])


def test_voting_a_candidate_may_vote_twice() -> None:
    """b is suppressed by a but overlaps a (60 / 100) and c (60 / 100) alike; a and c overlap by 20 / 100 only."""
    a, b, c = [0, 0, 10, 6], [0, 0, 10, 10], [0, 4, 10, 10]
    found = rows(method("voting", iou_threshold=0.3, vote_threshold=0.5)([raw([a, b, c], [0.9, 0.6, 0.8])]))
    assert [row["box"] for row in found] == [
        pytest.approx([0, 0, 10, (6 * 0.9 + 10 * 0.6) / 1.5]),
        pytest.approx([0, 4 * 0.8 / 1.4, 10, 10]),
    ]


def test_nmw_weighs_by_score_and_overlap() -> None:
    (row,) = rows(method("nmw")([raw([A, B], [0.9, 0.5])]))
    assert row["score"] == pytest.approx(0.9)
    assert row["box"] == pytest.approx([0, 0, 10, (10 * 0.9 + 8 * 0.5 * 0.8) / (0.9 + 0.5 * 0.8)])


def test_wbf_two_sources_that_agree_and_one_that_is_alone() -> None:
    """Scores 0.9 and 0.5 agree: mean 0.7, times min(2, 2) / 2. The lone box: 0.8 * 1 / 2."""
    found = rows(method("wbf")([raw([A, FAR], [0.9, 0.8], levels=[1, 2]), raw([B], [0.5])]))
    assert scores(found) == pytest.approx([0.7, 0.4])
    assert found[0]["box"] == pytest.approx([0, 0, 10, (10 * 0.9 + 8 * 0.5) / 1.4])
    assert [(row["level"], row["source"]) for row in found] == [(1, 0), (2, 0)]


@pytest.mark.parametrize(
    ("confidence", "agreed", "alone"),
    [
        # weights 2 and 1: scores 2 * 0.9 and 1 * 0.6 agree, 2 * 0.6 is alone; W = 3
        ("avg", (1.8 + 0.6) / 2 * 2 / 3, 1.2 * 1 / 3),
        ("avg_overflow", 2.4 / 2 * 2 / 3, 1.2 * 1 / 3),
        ("max", 1.8 / 2, 1.2 / 2),
        ("box_and_model_avg", 2.4 / 3 * 3 / 3, 1.2 / 2 * 2 / 3),
        ("absent_model_aware_avg", 2.4 / (3 + 0), 1.2 / (2 + 1)),
    ],
)
def test_wbf_confidences_with_weights(confidence, agreed, alone) -> None:
    found = rows(method("wbf", confidence=confidence)([raw([A, FAR], [0.9, 0.6]), raw([A], [0.6])], [2.0, 1.0]))
    assert scores(found) == pytest.approx([agreed, alone])


def test_wbf_three_boxes_of_one_source_count_as_one_voice_unless_overflow() -> None:
    """min(T, n) = 1 of T = 1: the mean; with overflow the sum."""
    given = [raw([A, A, A], [0.9, 0.6, 0.3])]
    assert scores(rows(method("wbf")(given))) == pytest.approx([0.6])
    assert scores(rows(method("wbf", confidence="avg_overflow")(given))) == pytest.approx([1.8])


def test_wbf_matches_the_moved_box_not_its_first_member() -> None:
    """c overlaps a by 6 / 10 only, but the mean of a and b (weights 0.9, 0.8) ends at 8.12: 6 / 8.12 = 0.74."""
    a, b, c = [0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 6.05]
    assert len(rows(method("wbf", iou_threshold=0.59)([raw([a, b, c], [0.9, 0.8, 0.7])]))) == 1
    first_only = rows(method("wbf", iou_threshold=0.61)([raw([a, c], [0.9, 0.7])]))
    assert len(first_only) == 2
    chain = rows(method("wbf", iou_threshold=0.7)([raw([[0, 0, 10, 10], [0, 0, 10, 7.5], [0, 0, 10, 6.5]], [0.5, 0.49, 0.4])]))
    assert len(chain) == 1  # 6.5 / 10 < 0.7, but 6.5 / 8.76 > 0.7


@pytest.mark.parametrize("name", [name for name in METHODS if name != "none"])
def test_two_classes_in_one_place_compete_only_when_agnostic(name) -> None:
    given = raw([A, A], [0.9, 0.6], [0, 1])
    assert [(row["label"], row["score"]) for row in rows(method(name)([given]))] == [(0, pytest.approx(0.9)), (1, pytest.approx(0.6))]
    agnostic = rows(method(name, class_agnostic=True)([given]))
    assert agnostic[0]["label"] == 0
    assert sum(scores(agnostic)) < 1.1


def test_none_keeps_the_best_and_suppresses_nothing() -> None:
    found = rows(method("none", max_detections=2)([raw([A, A, A], [0.2, 0.9, 0.5], [0, 1, 0])]))
    assert [(row["score"], row["label"]) for row in found] == [(pytest.approx(0.9), 1), (pytest.approx(0.5), 0)]
