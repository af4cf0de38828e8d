"""What holds for every late fusion that has a YAML: order, ties, nothing, one, odd boxes, batches, weights, origin."""

from __future__ import annotations

import pytest
import torch
from late_fusion_cases import METHODS, assert_same, candidates, method, raw, rows, shuffled

from fusion_det.structures import Detections, RawDetections

FUSED = ("nmw", "voting", "wbf")
COLUMNS = ("boxes", "scores", "labels", "levels", "valid")

pytestmark = pytest.mark.parametrize("name", METHODS)


def tied(batch=2, count=40) -> RawDetections:
    """Few scores, few places: many equal scores, and identical boxes in other levels and classes."""
    given = candidates(batch, count, seed=5)
    boxes = (given.boxes / 16).round() * 16
    return RawDetections(boxes, (given.scores * 4).ceil() / 4, given.labels, given.levels, given.valid)


def grouped(name, **changes):
    return method(name, **({} if name == "none" else changes))


def assert_equal(a: Detections, b: Detections, *, to_the_bit=True) -> None:
    for field in ("labels", "levels", "sources", "valid"):
        assert torch.equal(getattr(a, field), getattr(b, field)), field
    for field in ("boxes", "scores"):
        torch.testing.assert_close(getattr(a, field), getattr(b, field), **({"rtol": 0, "atol": 0} if to_the_bit else {}))


@pytest.mark.parametrize("make", [candidates, tied], ids=["distinct", "tied"])
@pytest.mark.parametrize("per_level", [False, True])
@pytest.mark.parametrize("agnostic", [False, True])
def test_the_order_of_candidates_does_not_matter(name, make, per_level, agnostic) -> None:
    given, fusion = make(batch=2, count=40), grouped(name, per_level=per_level, class_agnostic=agnostic, max_detections=15)
    expected = fusion([given])
    for seed in range(3):
        assert_equal(fusion([shuffled(given, seed)]), expected)


def test_the_order_of_sources_does_not_matter_but_for_their_index(name) -> None:
    one, other = candidates(seed=1), candidates(seed=2)
    a, b = grouped(name)([one, other], [2.0, 1.0]), grouped(name)([other, one], [1.0, 2.0])
    assert_equal(a, Detections(b.boxes, b.scores, b.labels, b.levels, torch.where(b.valid, 1 - b.sources, 0), b.valid), to_the_bit=False)
    assert set(a.sources[a.valid].tolist()) == {0, 1}


@pytest.mark.parametrize("make", [candidates, tied], ids=["distinct", "tied"])
def test_a_batch_equals_its_images_one_by_one(name, make) -> None:
    given, fusion = make(batch=3, count=40), grouped(name, per_level=True)
    together = fusion([given])
    for i in range(3):
        alone = fusion([RawDetections(*(getattr(given, column)[i : i + 1] for column in COLUMNS))])
        assert_same(rows(together, i), rows(alone), box_tolerance=1e-4, score_tolerance=1e-6)


def test_detections_fall_in_score_and_padding_is_last(name) -> None:
    found = method(name)([candidates(count=80)])
    for i in range(3):
        count = int(found.valid[i].sum())
        assert count
        assert found.valid[i, :count].all()
        assert (found.scores[i, 1:count] <= found.scores[i, : count - 1]).all()
        assert not found.boxes[i, count:].any()
    assert found.boxes.shape[1] == found.valid.sum(1).max() <= 100
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (torch.float32, torch.float32, torch.int64)


def test_nothing_in_nothing_out(name) -> None:
    for given in (candidates(valid=0.0), candidates(count=0)):
        found = method(name)([given, given])
        assert found.boxes.shape == (3, 0, 4)
        assert found.valid.shape == (3, 0)
    with pytest.raises(ValueError, match="at least one source"):
        method(name)([])
    with pytest.raises(ValueError, match="one batch size"):
        method(name)([candidates(batch=1), candidates(batch=2)])


def test_one_image_without_candidates_among_others(name) -> None:
    given = candidates()
    given.valid[1] = False
    found = method(name)([given])
    assert not found.valid[1].any()
    assert found.valid[0].any()
    assert found.valid[2].any()


def test_a_single_candidate_stays_as_it_is(name) -> None:
    (row,) = rows(method(name)([raw([[3.0, 4.0, 20.5, 30.25]], [0.75], [2], [4])]))
    assert row == {"box": [3.0, 4.0, 20.5, 30.25], "score": 0.75, "label": 2, "level": 4, "source": 0}


def test_a_single_candidate_of_the_second_source(name) -> None:
    nothing = candidates(batch=1, valid=0.0)
    (row,) = rows(method(name)([nothing, raw([[0.0, 0.0, 8.0, 8.0]], [0.5], [1], [3])]))
    assert (row["label"], row["level"], row["source"]) == (1, 3, 1)
    assert row["box"] == [0, 0, 8, 8]
    assert row["score"] == pytest.approx(0.25 if name == "wbf" else 0.5)  # one of two sources saw it


def test_boxes_without_area_and_far_away_change_nothing(name) -> None:
    """Lines, points, twice the same point, swapped corners and boxes outside of any picture: kept, finite, and no rival of others."""
    odd = [[5, 5, 5, 30], [5, 5, 30, 5], [9, 9, 9, 9], [9, 9, 9, 9], [30, 30, 20, 20], [-50, -50, -20, -20]]
    lone = [[1e4, 1e4, 1.1e4, 1.1e4], [0, 0, 40, 40]]
    found = rows(method(name, max_detections=50)([raw([*odd, *lone], [0.9, 0.8, 0.7, 0.6, 0.55, 0.5, 0.45, 0.4])]))
    assert len(found) == 8
    assert sorted(row["box"] for row in found) == sorted(list(map(float, box)) for box in [*odd, *lone])
    assert sorted((row["score"] for row in found), reverse=True) == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.55, 0.5, 0.45, 0.4])


def test_scores_of_zero_do_not_divide_by_zero(name) -> None:
    found = rows(
        method(name, **({"score_threshold": 0.0} if "soft" in name or "matrix" in name else {}))([raw([[0, 0, 8, 8]] * 3, [0.0] * 3)])
    )
    assert found
    for row in found:
        assert (row["box"], row["score"]) == ([0, 0, 8, 8], 0)


def test_images_do_not_compete(name) -> None:
    one = candidates(batch=1)
    twice = RawDetections(*(torch.cat([getattr(one, column)] * 2) for column in COLUMNS))
    found = method(name)([twice])
    assert rows(found, 0) == rows(found, 1)


def test_weights_scale_scores_and_are_checked(name) -> None:
    given = candidates()
    plain, doubled = method(name)([given]), method(name)([given], [2.0])
    assert_equal(plain, doubled)
    apart = RawDetections(given.boxes + 1000, given.scores, given.labels, given.levels, given.valid)
    found = method(name, max_detections=1000)([given, apart], [1.0, 0.5])
    best = {source: max(row["score"] for row in rows(found) if row["source"] == source) for source in (0, 1)}
    assert best[1] == pytest.approx(best[0] / 2)
    for wrong in ([1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [float("inf"), 1.0]):
        with pytest.raises(ValueError, match="2 positive weights"):
            method(name)([given, apart], wrong)


def test_level_and_source_are_those_of_the_best_member(name) -> None:
    boxes = [[0, 0, 20, 20], [1, 0, 21, 20], [0, 1, 20, 21]]
    weak, strong = raw(boxes, [0.3, 0.4, 0.2], levels=[1, 2, 0]), raw([[0, 0, 20, 20.5]], [0.8], levels=[3])
    first = rows(method(name)([weak, strong]))[0]
    assert (first["level"], first["source"]) == (3, 1)
    if name in FUSED:
        assert first["box"] != [0, 0, 20, 20.5]
        assert first["box"] == pytest.approx([0, 0, 20, 20.5], abs=1)


def test_low_precision_comes_in_and_float32_goes_out(name) -> None:
    given = candidates()
    half = RawDetections(given.boxes.bfloat16(), given.scores.bfloat16(), given.labels, given.levels, given.valid)
    found = method(name)([half])
    wide = RawDetections(half.boxes.float(), half.scores.float(), given.labels, given.levels, given.valid)
    assert_equal(found, method(name)([wide]))
    assert found.boxes.dtype == torch.float32
