"""Greedy suppression in padded groups against torchvision group by group, whichever way it is computed."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import nms

from fusion_det import suppression
from fusion_det.boxes import pair_ious
from fusion_det.suppression import _all_at_once, _one_by_one, greedy_keep, keep_by_blocks

WAYS = {
    "chosen": greedy_keep,
    "blocks": lambda boxes, valid, threshold: keep_by_blocks(boxes, valid, threshold, pair_ious),
    "one_by_one": _one_by_one,
    "all_at_once": _all_at_once,  # what a GPU does
}


def groups(count=6, width=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(count, width, 2, generator=generator) * 60
    boxes = torch.cat([start, start + 10 + torch.rand(count, width, 2, generator=generator) * 40], dim=2)
    valid = torch.rand(count, width, generator=generator) < 0.8
    boxes[0, 7] = boxes[0, 3]  # equal boxes
    boxes[1, :4] = torch.tensor([5.0, 5.0, 5.0, 5.0])  # without area
    valid[2] = False
    return boxes, valid


def by_torchvision(boxes, valid, threshold):
    keep = torch.zeros_like(valid)
    for row in range(len(valid)):
        slots = valid[row].nonzero()[:, 0]
        keep[row, slots[nms(boxes[row, slots], torch.arange(len(slots), 0, -1.0), threshold)]] = True
    return keep


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("width", [1, 50, 300])
@pytest.mark.parametrize("way", WAYS)
def test_it_keeps_what_torchvision_keeps(way, width, threshold):
    boxes, valid = groups(width=max(width, 8))
    boxes, valid = boxes[:, :width], valid[:, :width]
    expected = by_torchvision(boxes, valid, threshold)
    assert torch.equal(WAYS[way](boxes, valid, threshold), expected)
    assert width == 1 or threshold in (0.0, 1.0) or 0 < expected.sum() < valid.sum()


def test_small_blocks_change_nothing(monkeypatch):
    boxes, valid = groups()
    expected = by_torchvision(boxes, valid, 0.4)
    for pairs in (1, 700, 5000):
        monkeypatch.setitem(suppression.PAIRS_AT_ONCE, "cpu", pairs)
        assert torch.equal(greedy_keep(boxes, valid, 0.4), expected)


def test_nothing_in_nothing_out():
    boxes, valid = groups()
    assert greedy_keep(boxes[:0], valid[:0], 0.5).shape == (0, 50)
    assert greedy_keep(boxes[:, :0], valid[:, :0], 0.5).shape == (6, 0)


def test_boxes_that_are_no_numbers_suppress_nothing():
    boxes, valid = groups(width=200)
    boxes[:, 0] = torch.nan
    for way in (greedy_keep, WAYS["blocks"], _one_by_one):
        keep = way(boxes, valid, 0.4)
        assert torch.equal(keep[:, 1:], by_torchvision(boxes[:, 1:], valid[:, 1:], 0.4))
        assert torch.equal(keep[:, 0], valid[:, 0])


def test_without_values_and_in_a_graph():
    boxes, valid = groups()
    assert greedy_keep(boxes.to("meta"), valid.to("meta"), 0.5).shape == valid.shape
    compiled = torch.compile(lambda b, v: greedy_keep(b, v, 0.5) & v, backend="eager", fullgraph=True)
    assert torch.equal(compiled(boxes, valid), by_torchvision(boxes, valid, 0.5))
