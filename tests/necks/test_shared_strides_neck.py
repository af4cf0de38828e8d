"""Two maps of one stride in a neck, such as torchvision's detectors on MobileNetV3 have: each is a level of its own."""

from __future__ import annotations

import pytest
import torch
from named_necks import NECKS, backbone_maps, named_neck

from fusion_det.structures import LevelSpec, check_levels

LEVELS = [LevelSpec("C4", 12, 16), LevelSpec("C5a", 20, 32), LevelSpec("C5b", 28, 32)]
FEWER = {"bifpn": {"topology__repeats": 1}, "nasfpn": {"topology__repeats": 1}, "fpg": {"topology__pathways": 4}, "afpn": {"widths": 8}}
SHAPE = (67, 97)


@pytest.mark.parametrize("name", NECKS)
def test_every_neck_keeps_them_apart(name):
    neck = named_neck(name, LEVELS, channels=8, **FEWER.get(name, {})).eval()
    maps = backbone_maps(LEVELS, height=SHAPE[0], width=SHAPE[1])
    outputs = neck(maps)
    expected = [(1, level.channels, *(-(-side // level.stride) for side in SHAPE)) for level in neck.levels]
    assert [tuple(o.shape) for o in outputs] == expected
    sum(o.square().sum() for o in outputs).backward()
    assert maps[2].grad is not None
    assert maps[2].grad.abs().sum() > 0
    assert neck.plan.draw_svg().count("/32</text>") >= 1
    if len(neck.levels) > 1:
        assert {"P5a", "P5b"} <= {level.name for level in neck.levels}


def test_between_them_nothing_is_resampled():
    neck = named_neck("fpn", LEVELS, channels=8, extra__count=1).eval()
    assert list(neck.resamplers) == ["M5a_to_M4"]
    assert [tuple(level) for level in neck.levels[1:]] == [("P5a", 8, 32), ("P5b", 8, 32), ("P6", 8, 64)]
    maps = backbone_maps(LEVELS)
    with torch.no_grad():
        fine, coarse = (neck.entries[name](m) for name, m in zip(("C5a", "C5b"), maps[1:], strict=True))
        torch.testing.assert_close(neck(maps)[1], neck.blocks["P5a"](fine + coarse))


def test_they_share_a_width():
    with pytest.raises(ValueError, match=r"neck.widths: C5a and C5b share stride 32 and so one width, got 20 and 28; null gives"):
        named_neck("fpn", LEVELS, channels=8, widths=1.0)
    assert named_neck("fpn", LEVELS, channels=8, widths=[6, 10, 10]).entries["C5b"][0].out_channels == 10


@pytest.mark.parametrize(
    ("levels", "options", "message"),
    [
        ([("C5a", 8, 32), ("C5b", 8, 32)], {"one_per_stride": True}, r"here: expected one level per stride, got \['C5a', 'C5b'\]"),
        ([("C5", 8, 32), ("C5", 8, 32)], {}, "here: level names repeat"),
        ([("C5", 8, 32), ("C4", 8, 16)], {}, "here: expected strides that grow from fine to coarse"),
    ],
)
def test_what_levels_cannot_be(levels, options, message):
    with pytest.raises(ValueError, match=message):
        check_levels([LevelSpec(*level) for level in levels], owner="here", **options)
