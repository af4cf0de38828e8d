"""Overlaps of boxes: torchvision's to the last bit, and nothing that is no number where there is no area."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_area as reference_area
from torchvision.ops import box_iou

from fusion_det.boxes import aligned_ious, box_area, chunk_size, exceeds, pair_intersections, pair_ious, rows_within


def some_boxes(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(*shape, 2, generator=generator, dtype=dtype) * 60
    return torch.cat([start, start + 0.5 + torch.rand(*shape, 2, generator=generator, dtype=dtype) * 50], dim=-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ious_equal_torchvision_to_the_last_bit(dtype):
    one, other = some_boxes(3, 40, dtype=dtype), some_boxes(3, 70, seed=1, dtype=dtype)
    for row in range(3):
        expected = box_iou(one[row], other[row])
        assert torch.equal(pair_ious(one, other)[row], expected)
        assert torch.equal(pair_ious(one, other[0])[row], box_iou(one[row], other[0]))  # the same boxes for every image
        known = pair_intersections(one, other)
        kept = known.clone()
        assert torch.equal(pair_ious(one, other, known)[row], expected)
        assert torch.equal(known, kept)
    assert torch.equal(box_area(one[0]), reference_area(one[0]))
    assert torch.allclose(aligned_ious(one, one + 1), torch.stack([box_iou(b, b + 1).diagonal() for b in one]))


def test_boxes_without_area_overlap_nothing():
    boxes = torch.tensor([[[3.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0], [8.0, 8.0, 2.0, 2.0], [0.0, 0.0, 9.0, 9.0]]])
    found = pair_ious(boxes, boxes)[0]
    assert found.tolist() == [[0.0] * 4, [0.0] * 4, [0.0] * 4, [0.0, 0.0, 0.0, 1.0]]
    assert box_area(boxes)[0].tolist() == [0.0, 0.0, 0.0, 81.0]
    assert aligned_ious(boxes, boxes)[0].tolist() == [0.0, 0.0, 0.0, 1.0]


def test_boxes_that_are_no_numbers_stay_seen():
    boxes = torch.tensor([[[0.0, 0.0, torch.nan, 4.0], [0.0, 0.0, 4.0, 4.0]]])
    assert pair_ious(boxes, boxes)[0].isnan().tolist() == [[True, True], [True, False]]


def test_thresholds_are_not_rounded_up():
    """0.7 is under 0.7 in float32, 0.6 above 0.6: an IoU of float32(0.7) is not above 0.7 for a kernel that compares in double."""
    for threshold in (0.6, 0.7, 0.3, 0.45, 0.5):
        near = torch.tensor([threshold])
        around = torch.stack([near.nextafter(torch.tensor(0.0)), near, near.nextafter(torch.tensor(1.0))]).flatten()
        assert exceeds(around, threshold).tolist() == (around.double() > threshold).tolist()


def test_chunks_hold_what_they_may():
    assert rows_within(10, 100) == 10
    assert rows_within(1000, 100) == rows_within(10**9, 100) == 1
    assert rows_within(0, 100) == 100
    assert chunk_size(2**10, torch.device("cpu")) == 2**11
    assert chunk_size(2**10, torch.device("meta")) == 2**14
