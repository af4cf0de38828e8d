"""Mirrored and resized pictures: what is looked at, and how boxes come back."""

from __future__ import annotations

import pytest
import torch
from late_fusion_cases import candidates, method

from fusion_det.late_fusion.sources import mirrored, mirrored_back, moved, renumbered
from fusion_det.structures import ImageBatch, RawDetections


def images(sizes, shape=(4, 6), scales=((1.0, 1.0), (1.0, 1.0))) -> ImageBatch:
    pixels = torch.arange(2 * 3 * shape[0] * shape[1]).reshape(2, 3, *shape).to(torch.uint8)
    return ImageBatch(pixels, torch.tensor(sizes), torch.tensor(scales), torch.tensor(sizes), (1, 2))


def boxes(*rows) -> RawDetections:
    given = torch.tensor(rows, dtype=torch.float32)[:, None]
    zero = torch.zeros(2, 1, dtype=torch.int64)
    return RawDetections(given, torch.ones(2, 1), zero, zero + 1, zero == 0)


def test_each_picture_is_turned_inside_its_own_width() -> None:
    given = images([[4, 6], [2, 4]])
    turned = mirrored(given)
    assert torch.equal(turned.pixels[0], given.pixels[0].flip(2))
    assert torch.equal(turned.pixels[1, :, :, :4], given.pixels[1, :, :, :4].flip(2))
    assert torch.equal(turned.pixels[1, :, :, 4:], given.pixels[1, :, :, 4:])  # padding stays at the right
    assert torch.equal(mirrored(turned).pixels, given.pixels)
    assert torch.equal(turned.sizes, given.sizes)


def test_boxes_are_turned_back() -> None:
    found = mirrored_back(boxes([1, 0, 3, 4], [0, 1, 1, 2]), images([[4, 6], [2, 4]]))
    assert found.boxes[:, 0].tolist() == [[3, 0, 5, 4], [3, 1, 4, 2]]


def test_boxes_move_between_sizes_and_stay_inside() -> None:
    small = images([[4, 6], [2, 4]], scales=((0.5, 0.5), (0.25, 0.5)))
    large = images([[8, 12], [8, 8]], scales=((1.0, 1.0), (1.0, 1.0)))
    found = moved(boxes([1, 0, 6.5, 4], [0, 1, 1, 2]), small, large)
    assert found.boxes[:, 0].tolist() == [[2, 0, 12, 8], [0, 2, 4, 4]]
    same = boxes([1, 0, 3, 4], [0, 1, 1, 2])
    assert moved(same, small, small) is same


def test_levels_get_new_numbers() -> None:
    assert renumbered(boxes([0, 0, 1, 1], [0, 0, 1, 1]), torch.tensor([5, 3])).levels.tolist() == [[3], [3]]


@pytest.mark.parametrize("name", ["voting", "nmw", "wbf", "soft_nms"])
def test_autocast_around_a_late_fusion_changes_nothing(name) -> None:
    """Detectors predict under autocast; a mean of boxes in bf16 would be off by pixels."""
    given = candidates()
    plain = method(name)([given])
    with torch.autocast("cpu", torch.bfloat16):
        inside = method(name)([given])
    assert torch.equal(inside.boxes, plain.boxes)
    assert torch.equal(inside.scores, plain.scores)
