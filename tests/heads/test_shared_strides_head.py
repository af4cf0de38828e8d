"""Heads on levels of which two share a stride: those that go by strides refuse them in one line, the others detect on each."""

from __future__ import annotations

import pytest
import torch
from head_cases import CHANNELS, PICTURE, make_features, make_head, make_targets

from fusion_det.heads.roi_levels import RoIPool
from fusion_det.structures import LevelSpec

LEVELS = [LevelSpec(name, CHANNELS, stride) for name, stride in (("P4", 16), ("P5a", 32), ("P5b", 32), ("P6", 64))]
SHAPES = [(PICTURE // level.stride,) * 2 for level in LEVELS]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fcos", "head fcos: expected one level per stride, got .*'P5a', 'P5b'"),
        ("mscnn", "templates grow with the stride, but P5b's largest is no larger than P5a's"),
        ("ssd_small", "expected 0 < min size < max size on P5a"),
    ],
)
def test_heads_that_go_by_strides_refuse_them(name, message):
    with pytest.raises(ValueError, match=message):
        make_head(name, LEVELS)


@pytest.mark.parametrize("name", ["retinanet_small", "gfl_small"])
def test_the_others_detect_on_each(name):
    head, features = make_head(name, LEVELS), make_features(levels=LEVELS, shapes=SHAPES)
    assert all(loss.isfinite() for loss in head.losses(features, make_targets([3, 1])).values())
    raw = head.predict(features, torch.tensor([[PICTURE, PICTURE]] * 2))
    assert set(raw.levels.unique().tolist()) == {0, 1, 2, 3}


def test_boxes_go_to_the_first_of_them():
    pool = RoIPool(
        LEVELS, levels_used=["P4", "P5a", "P5b", "P6"], bins=7, samples=2, aligned=False, canonical_size=224, canonical_stride=16
    )
    sides = torch.tensor([20.0, 300.0, 447.0, 500.0, 890.0, 2000.0])
    boxes = torch.cat([torch.zeros(6, 2), sides[:, None].expand(-1, 2)], dim=1)[None]
    assert pool.assign(boxes)[0].tolist() == [0, 0, 0, 1, 1, 3]
