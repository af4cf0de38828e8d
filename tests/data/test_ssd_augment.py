"""SSD's pictures: a painted rectangle is found again where its box says, whatever is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from fusion_det.data.augment import evaluation_view
from fusion_det.data.buckets import Filled
from fusion_det.data.ssd_augment import SSDAugment, arrange
from fusion_det.errors import ConfigError

CONFIG = Path(__file__).resolve().parents[2] / "configs/augment/ssd.yaml"
SHAPE = Filled(120, 120)
LABELS, CROWD = np.array([3]), np.zeros(1, dtype=bool)


def make(**changes):
    options = yaml.safe_load(CONFIG.read_text())
    assert options.pop("_target_") == "fusion_det.data.ssd_augment.SSDAugment"
    return SSDAugment(**{**options, **changes})


def painted(height, width, box):
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    left, top, right, bottom = box
    pixels[:, top:bottom, left:right] = 255
    return pixels, np.array([box], dtype=np.float64)


def test_the_rectangle_lies_where_its_box_says():
    augment, rng = make(photometric=0.0), np.random.default_rng(0)
    pixels, boxes = painted(90, 160, (40, 20, 100, 70))
    sizes = []
    for _ in range(200):
        view = augment.apply(pixels, boxes, LABELS, CROWD, augment.draw(rng), SHAPE)
        assert view.pixels.shape == (3, 120, 120)
        assert view.labels.tolist() == [3]
        assert not view.crowd.any()
        bright = (view.pixels.float().amin(dim=0) > 190).numpy()  # more than the mean colour around the picture
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert np.abs(seen - view.boxes[0]).max() <= 2
        sizes.append(np.sqrt((view.boxes[0, 2:] - view.boxes[0, :2]).prod()))
    assert min(sizes) < 25  # four times zoomed out
    assert max(sizes) > 100  # a window full of it


def test_windows_keep_objects_by_their_centre_and_overlap_one_enough():
    augment, rng = make(photometric=0.0, zoom_out=0.0, hflip=0.0, overlaps=[0.7, 1.0]), np.random.default_rng(1)
    boxes = np.array([[0.0, 0, 60, 60], [90, 10, 150, 80], [70, 60, 80, 70]])
    pixels, labels, crowd = torch.zeros(3, 90, 160, dtype=torch.uint8), np.arange(3), np.array([False, False, True])
    counts = set()
    for _ in range(100):
        view = augment.apply(pixels, boxes, labels, crowd, augment.draw(rng), SHAPE)
        counts.add(len(view.boxes))
        assert view.crowd.tolist() == [label == 2 for label in view.labels]
        area = (view.boxes[:, 2:] - view.boxes[:, :2]).prod(axis=1) / 120**2
        if view.scale != (120 / 160, 120 / 90):  # a window: an object of which it shows all or a part fills most of it
            assert area.max() > 0.5
    assert counts >= {1, 3}


def test_with_everything_off_it_is_the_evaluation_view():
    augment = make(hflip=0.0, zoom_out=0.0, overlaps=[1.0], photometric=0.0)
    pixels, boxes = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8), np.array([[3.0, 4, 30, 40]])
    view, wanted = augment.apply(pixels, boxes, LABELS, CROWD, 5, SHAPE), evaluation_view(pixels, boxes, LABELS, CROWD, SHAPE)
    assert torch.equal(view.pixels, wanted.pixels)
    assert np.array_equal(view.boxes, wanted.boxes)
    assert view[2:] == wanted[2:] or all(np.array_equal(a, b) for a, b in zip(view[2:], wanted[2:], strict=True))


def test_a_sample_is_a_function_of_its_seed_and_leaves_the_global_generator_alone():
    augment, (pixels, boxes) = make(), painted(90, 160, (40, 20, 100, 70))
    before = torch.get_rng_state()
    first, torch_numbers = augment.apply(pixels, boxes, LABELS, CROWD, 11, SHAPE), torch.rand(3)
    again = augment.apply(pixels, boxes, LABELS, CROWD, 11, SHAPE)
    other = augment.apply(pixels, boxes, LABELS, CROWD, 12, SHAPE)
    assert torch.equal(first.pixels, again.pixels)
    assert not torch.equal(first.pixels, other.pixels)
    torch.set_rng_state(before)
    assert torch.equal(torch.rand(3), torch_numbers)


def test_colours_change_and_pictures_without_objects_or_of_one_pixel_work():
    augment = make(photometric=1.0, overlaps=[1.0], zoom_out=0.0)
    nothing = (np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))
    pixels = torch.full((3, 40, 40), 100, dtype=torch.uint8)
    assert not torch.equal(augment.apply(pixels, *nothing, 0, SHAPE).pixels, torch.full((3, 120, 120), 100, dtype=torch.uint8))
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (1, 300), (40, 2)):
        for _ in range(10):
            view = make().apply(torch.zeros(3, height, width, dtype=torch.uint8), *nothing, augment.draw(rng), SHAPE)
            assert view.pixels.shape == (3, 120, 120)
            assert len(view.boxes) == 0


def test_mirrored_place_of_a_picture_on_its_canvas():
    placement, size = arrange((10, 20, 40, 60), (0, 0, 100, 100), Filled(200, 200), mirrored=True)
    assert size == (200, 200)
    assert placement.source == (0, 0, 40, 60)
    assert placement.target == (200 - 20 - 80, 40, 80, 120)
    assert placement.hflip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overlaps": [0.5]}, "augment.overlaps: overlaps .* have no 1.0"),
        ({"crop_scale": (0.5, 1.2)}, "augment.crop_scale: .* with low <= high <= 1"),
        ({"crop_aspect": (2.0, 0.5)}, "augment.crop_aspect"),
        ({"largest_canvas": 0.5}, "augment.largest_canvas"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ConfigError, match=message):
        make(**changes)
