"""Which objects no anchor resembles: against the overlap of boxes around one centre, and what a run says of it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from head_cases import LEVELS, make_head
from torchvision.ops import box_iou

from fusion_det.analysis.anchor_fit import anchor_fit, anchor_grids, log_anchor_fit, object_sizes
from fusion_det.data.augment import evaluation_view
from fusion_det.data.buckets import Filled, assign, make_buckets
from fusion_det.data.coco_index import CocoIndex, read_index

BUCKETS = make_buckets(128)


@pytest.fixture
def train(coco_root: Path) -> CocoIndex:
    return read_index(coco_root / "annotations/instances_train.json", coco_root / "train")


def around_zero(sizes):
    return torch.cat([-sizes / 2, sizes / 2], dim=1)


@pytest.mark.parametrize("name", ["retinanet_small", "ssd_small", "mscnn_small", "faster_rcnn_small"])
def test_overlap_is_the_iou_around_one_centre(name):
    objects = torch.rand(70, 2, generator=torch.Generator().manual_seed(0)) * 200 + 2
    ((_, grid),) = anchor_grids(make_head(name, LEVELS[:3]))
    fit = anchor_fit(grid, objects, (128, 96))
    boxes = grid([(16, 12), (8, 6), (4, 3)] if len(grid.strides) == 3 else [(1, 1)] * len(grid.strides)).boxes
    expected = box_iou(around_zero(objects), around_zero(boxes[:, 2:] - boxes[:, :2])).amax(dim=1)
    assert torch.allclose(fit.overlaps, expected, atol=1e-2)
    assert len(fit.shapes) == sum(grid.per_cell)
    assert fit.poor.equal(fit.overlaps < 0.3)


def test_heads_without_anchors_have_none():
    assert not list(anchor_grids(make_head("fcos_small")))
    assert not list(anchor_grids(make_head("gfl_small")))  # ATSS's squares mark places and scales
    assert [name for name, _ in anchor_grids(make_head("faster_rcnn_small"))] == ["head.rpn"]


@pytest.mark.parametrize("buckets", [BUCKETS, (Filled(64, 128),)])
def test_sizes_are_those_that_the_network_sees(train, buckets):
    bucket_of_image = assign(train.sizes, buckets)
    expected = []
    for image, bucket in enumerate(bucket_of_image):
        pixels = torch.zeros(3, *train.sizes[image].tolist(), dtype=torch.uint8)
        view = evaluation_view(pixels, *train.targets(image), buckets[bucket])
        boxes = torch.as_tensor(view.boxes)[~torch.as_tensor(view.crowd)]
        expected.append(boxes[:, 2:] - boxes[:, :2])
    assert torch.allclose(object_sizes(train, buckets, bucket_of_image), torch.cat(expected).float(), atol=1e-3)


def test_a_run_is_told_of_anchors_that_do_not_suit_its_objects(train, caplog):
    bucket_of_image = assign(train.sizes, BUCKETS)
    with caplog.at_level(logging.INFO):
        log_anchor_fit(make_head("retinanet_small", LEVELS[:3]), train, BUCKETS, bucket_of_image)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        log_anchor_fit(make_head("retinanet_small", LEVELS[:1], anchor_sizes=[[500.0]]), train, BUCKETS, bucket_of_image)
    info, warning = caplog.records
    assert "head: anchors of 500 to 501 px" in info.getMessage()
    assert warning.levelname == "WARNING"
    assert "head: 100 % of the training objects overlap no anchor by 0.3" in warning.getMessage()
