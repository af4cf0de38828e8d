"""Where pictures and boxes go: a painted rectangle is found again where its box says, under every change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from fusion_det.data.augment import Augment, Change, View, evaluation_view
from fusion_det.data.buckets import Filled, assign, fitted_size, make_buckets, resized
from fusion_det.data.colour import change_saturation, change_tone
from fusion_det.data.placement import MEAN_COLOUR, Placement, move_boxes, place
from fusion_det.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs/augment"
NO_OBJECTS = (np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))
NOTHING = Change(1.0, (0.3, 0.7), False, False, 1.0, 1.0, 1.0)


def load(name: str) -> Augment:
    settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert settings.pop("_target_") == "fusion_det.data.augment.Augment"
    return Augment(**settings)


def painted(height: int, width: int, box: tuple[int, int, int, int]) -> torch.Tensor:
    """Black with one white rectangle."""
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    pixels[:, box[1] : box[3], box[0] : box[2]] = 255
    return pixels


def found(view: View) -> np.ndarray:
    """The box of the white rectangle, to about a pixel: coverage of its rows and columns."""
    bright = view.pixels[0] > 150
    columns, rows = np.flatnonzero(bright.any(0)), np.flatnonzero(bright.any(1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def apply(augment: Augment, pixels: torch.Tensor, box: tuple[int, int, int, int], change: Change, bucket: tuple[int, int]) -> View:
    return augment.apply(pixels, np.array([box], float), np.array([4]), np.array([False]), change, bucket)


def test_boxes_lie_where_their_pixels_are() -> None:
    rng = np.random.default_rng(0)
    augment, checked, flips = load("strong"), 0, set()
    for _ in range(400):
        height, width = (int(value) for value in rng.integers(50, 500, 2))
        bucket = make_buckets(256)[assign(np.array([[height, width]]), make_buckets(256))[0]]
        left, top = int(rng.integers(0, width - 20)), int(rng.integers(0, height - 20))
        box = (left, top, int(rng.integers(left + 12, width + 1)), int(rng.integers(top + 12, height + 1)))
        change = augment.draw(rng)._replace(brightness=1.0, contrast=1.0, saturation=1.0)
        view = apply(augment, painted(height, width, box), box, change, bucket)
        assert view.pixels.shape == (3, *bucket)
        if len(view.boxes) and (view.boxes[0, 2:] - view.boxes[0, :2] > 4).all():
            assert np.abs(found(view) - view.boxes[0]).max() <= 0.5 + 0.6 * max(1.0, *view.scale), (change, box)
            assert view.labels.tolist() == [4]
            checked += 1
            flips.add(change.hflip)
    assert checked > 250
    assert flips == {False, True}


@pytest.mark.parametrize(("hflip", "vflip", "axes"), [(True, False, [2]), (False, True, [1]), (True, True, [1, 2])])
def test_flips_are_exact(hflip: bool, vflip: bool, axes: list[int]) -> None:
    pixels = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    box = (5, 10, 25, 64)
    view = apply(load("none"), pixels, box, NOTHING._replace(hflip=hflip, vflip=vflip), (64, 64))
    assert torch.equal(view.pixels, pixels.flip(axes))
    x = (64 - 25, 64 - 5) if hflip else (5, 25)
    y = (0, 54) if vflip else (10, 64)
    assert view.boxes.tolist() == [[x[0], y[0], x[1], y[1]]]


@pytest.mark.parametrize("shape", [(64, 96), (96, 64), (70, 71), (1, 300), (300, 1), (40, 40), (333, 500)])
def test_all_zero_is_the_evaluation_transform(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    pixels = torch.from_numpy(rng.integers(0, 256, (3, *shape), dtype=np.uint8))
    corners = rng.random((9, 2, 2)) * [shape[1], shape[0]]
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    objects = (boxes, np.arange(9), rng.random(9) < 0.3)
    bucket = make_buckets(128)[assign(np.array([shape]), make_buckets(128))[0]]
    augment = load("none")
    one = augment.apply(pixels, *objects, augment.draw(rng), bucket)
    other = evaluation_view(pixels, *objects, bucket)
    assert torch.equal(one.pixels, other.pixels)
    assert all(np.array_equal(a, b) for a, b in zip(one[1:], other[1:], strict=True))


def test_evaluation_view_keeps_the_aspect_and_fills_with_the_mean_colour() -> None:
    objects = (np.array([[20.0, 10, 200, 100]]), np.array([1]), np.array([False]))
    view = evaluation_view(torch.full((3, 100, 200), 9, dtype=torch.uint8), *objects, (96, 128))
    assert view.size == (64, 128)
    assert view.scale == (0.64, 0.64)
    assert np.allclose(view.boxes, [[12.8, 6.4, 128, 64]])
    assert (view.pixels[:, :64] == 9).all()
    assert (view.pixels[:, 64:] == torch.tensor(MEAN_COLOUR, dtype=torch.uint8)[:, None, None]).all()


def _seen(placement: Placement, crowd: bool = False) -> tuple[int, list[bool]]:
    moved = move_boxes(np.array([[0.0, 0, 100, 100]]), np.array([crowd]), placement)
    return len(moved.boxes), moved.mostly_hidden.tolist()


@pytest.mark.parametrize(
    ("left", "kept", "hidden"), [(0, 1, [False]), (74, 1, [False]), (76, 1, [True]), (94, 1, [True]), (96, 0, []), (150, 0, [])]
)
def test_objects_mostly_out_of_view_are_ignored_or_dropped(left: int, kept: int, hidden: list[bool]) -> None:
    placement = Placement((left, 0, 100, 100), (0, 0, 100, 100))
    assert _seen(placement) == (kept, hidden)
    assert _seen(placement, crowd=True)[0] == (left < 100)


def test_objects_under_one_pixel_are_dropped() -> None:
    placement = Placement((0, 0, 100, 100), (0, 0, 25, 25))
    boxes = np.array([[0.0, 0, 3.9, 50], [0, 0, 4, 50], [98, 98, 100, 100]])
    assert move_boxes(boxes, np.zeros(3, bool), placement).kept.tolist() == [1]


def test_hidden_objects_become_regions_to_ignore() -> None:
    change = NOTHING._replace(zoom=2.0, shift=(0.0, 0.0))
    augment = Augment(hflip=0, vflip=0, scale=(2, 2), shift=1, brightness=0, contrast=0, saturation=0, colour_prob=0)
    boxes = np.array([[0.0, 0, 32, 32], [28, 0, 60, 32], [40, 0, 60, 32]])
    view = augment.apply(torch.zeros(3, 64, 64, dtype=torch.uint8), boxes, np.arange(3), np.zeros(3, bool), change, (64, 64))
    assert view.boxes.tolist() == [[0, 0, 64, 64], [56, 0, 64, 64]]
    assert (view.labels.tolist(), view.crowd.tolist(), view.size) == ([0, 1], [False, True], (64, 64))


@pytest.mark.parametrize("zoom", [0.3, 0.77, 1.0, 1.31, 4.0, 16.0])
def test_placement_keeps_the_aspect_and_stays_inside(zoom: float) -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        height, width = (int(value) for value in rng.integers(20, 700, 2))
        bucket = make_buckets(160)[int(rng.integers(3))]
        shift = (float(rng.random()), float(rng.random()))
        placement = place(height, width, bucket, zoom=zoom, shift=shift, hflip=False, vflip=False)
        for (left, top, w, h), room in ((placement.source, (height, width)), (placement.target, bucket)):
            assert 0 <= left < left + w <= room[1]
            assert 0 <= top < top + h <= room[0]
        fitted = fitted_size(height, width, bucket)
        ideal = zoom * min(bucket[0] / height, bucket[1] / width)
        for scale, length, source in (
            (placement.scale[0], fitted[1], placement.source[2]),
            (placement.scale[1], fitted[0], placement.source[3]),
        ):
            rounding = 0.5 / length + 0.5 / (source * ideal)  # of the fitted size and of the target, in whole pixels
            assert scale / ideal == pytest.approx(1, abs=1.05 * rounding + 1e-9)


def test_placement_covers_the_whole_room() -> None:
    """Shift 0 and 1 reach the edges: of the bucket for a small picture, of the picture for a window."""
    ends = [place(100, 100, (64, 64), zoom=0.5, shift=(s, s), hflip=False, vflip=False).target[:2] for s in (0.0, 1.0)]
    assert ends == [(0, 0), (32, 32)]
    ends = [place(100, 100, (64, 64), zoom=2.0, shift=(s, s), hflip=False, vflip=False).source for s in (0.0, 1.0)]
    assert ends == [(0, 0, 50, 50), (50, 50, 50, 50)]


def test_buckets_waste_little() -> None:
    buckets = make_buckets(320)
    assert buckets == ((320, 320), (256, 320), (320, 256))
    assert make_buckets(32) == ((32, 32),)
    sizes = np.array([[480, 640], [640, 480], [500, 500], [100, 1000], [427, 640], [32, 40], [33, 40]])
    assert assign(sizes, buckets).tolist() == [1, 2, 0, 1, 1, 1, 0]
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 3000, (500, 2))
    for (height, width), bucket in zip(sizes.tolist(), assign(sizes, buckets).tolist(), strict=True):
        fitted = fitted_size(height, width, buckets[bucket])
        assert max(fitted) == 320
        assert abs(fitted[0] / fitted[1] - height / width) <= 0.51 * (1 + height / width) / fitted[1] or min(fitted) == 1


@pytest.mark.parametrize("size", [300, 0, 33, -32])
def test_image_size_must_fit_the_strides(size: int) -> None:
    with pytest.raises(ConfigError, match=r"data\.image_size: image_size .* is not a multiple of 32 -> use \d+"):
        make_buckets(size)


def test_the_short_side_is_what_is_asked_for_unless_the_long_one_becomes_too_long() -> None:
    buckets = make_buckets(1344, short_side=800)
    assert buckets[0] == (800, 1344)
    assert len(buckets) == 7
    wanted = {(480, 640): (800, 1067), (640, 427): (1199, 800), (500, 500): (800, 800), (300, 1000): (403, 1344), (481, 640): (800, 1064)}
    chosen = assign(np.array(list(wanted)), buckets).tolist()
    for (height, width), bucket in zip(wanted, chosen, strict=True):
        fitted = fitted_size(height, width, buckets[bucket])
        assert np.abs(np.subtract(fitted, wanted[height, width])).max() <= 1
        held = [shape for shape in buckets if shape[0] >= fitted[0] and shape[1] >= fitted[1]]
        assert np.prod(buckets[bucket]) == min(np.prod(shape) for shape in held)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": 600}, "data.short_side: short_side 600 is not a multiple of 32 -> use 608"),
        ({"short_side": 1376}, "data.short_side: short_side 1376 is more than image_size 1344"),
        ({"short_side": 800, "stretch": True}, "data.short_side: stretched pictures are square"),
    ],
)
def test_short_sides_that_cannot_be(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        make_buckets(1344, **options)


def test_stretched_pictures_fill_their_shape_and_so_do_their_boxes() -> None:
    (shape,) = make_buckets(300, stretch=True)
    pixels, boxes = torch.zeros(3, 100, 400, dtype=torch.uint8), np.array([[40.0, 10.0, 200.0, 50.0]])
    view = evaluation_view(pixels, boxes, np.zeros(1, dtype=np.int64), np.zeros(1, dtype=bool), shape)
    assert view.pixels.shape == (3, 300, 300)
    assert (view.size, view.scale) == ((300, 300), (0.75, 3.0))
    assert view.boxes.tolist() == [[30.0, 30.0, 150.0, 150.0]]
    assert isinstance(resized((shape,), 320)[0], Filled)
    assert resized((shape,), 320) == ((320, 320),)


@pytest.mark.parametrize("scale", [[1.2, 0.8], [0, 1], [1], [-1, 1]])
def test_wrong_scale(scale: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"augment\.scale"):
        Augment(hflip=0, vflip=0, scale=scale, shift=0, brightness=0, contrast=0, saturation=0, colour_prob=0)  # type: ignore[arg-type]


def test_draws_have_the_stated_ranges() -> None:
    augment = load("strong")
    draws = [augment.draw(np.random.default_rng(number)) for number in range(3000)]
    zooms = np.log2([draw.zoom for draw in draws])
    assert zooms.min() >= -1
    assert zooms.max() <= 1
    assert np.abs(np.quantile(zooms, [0.25, 0.5, 0.75]) - [-0.5, 0, 0.5]).max() < 0.06
    assert np.mean([draw.hflip for draw in draws]) == pytest.approx(0.5, abs=0.04)
    assert not any(draw.vflip for draw in draws)
    coloured = [draw for draw in draws if draw.saturation != 1]
    assert len(coloured) / len(draws) == pytest.approx(0.8, abs=0.03)
    for name, strength in (("brightness", 0.4), ("contrast", 0.4), ("saturation", 0.5)):
        values = np.array([getattr(draw, name) for draw in coloured])
        assert np.abs(values - 1).max() <= strength
        assert values.min() < 1 - 0.9 * strength
        assert values.max() > 1 + 0.9 * strength
    assert load("default").draw(np.random.default_rng(5)).shift == draws[5].shift


def test_tone_and_saturation_against_plain_arithmetic() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 30, 40), dtype=np.uint8)
    assert np.array_equal(change_tone(pixels, 1.0, 1.0), pixels)
    assert np.array_equal(change_saturation(pixels, 1.0), pixels)
    expected = np.round((((pixels.astype(float) - 128) * 1.3 + 128) * 0.9).clip(0, 255))
    assert np.array_equal(change_tone(pixels, 0.9, 1.3), expected)
    grey = (pixels * np.array([77, 150, 29])[:, None, None] / 256).sum(0)
    for factor in (0.0, 0.5, 1.25, 1.984375):
        expected = (grey + (pixels - grey) * factor).clip(0, 255)
        assert np.abs(change_saturation(pixels, factor) - expected).max() <= 1.5
    colours = load("strong").apply(torch.from_numpy(pixels), *NO_OBJECTS, NOTHING._replace(brightness=0.9, contrast=1.3), (30, 40)).pixels
    assert np.array_equal(colours.numpy(), change_tone(pixels, 0.9, 1.3))
