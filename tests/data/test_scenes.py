"""The generator of scenes: pure, exact boxes, balanced classes, settings that can be drawn."""

import numpy as np
import pytest
from scenes_preset import drawn_alone, preset, tight, values_of

from fusion_det.data.scenes.layout import Thing
from fusion_det.data.scenes.render import plan, render
from fusion_det.data.scenes.settings import FACTORS
from fusion_det.data.scenes.shapes import shape_mask, texture_mask
from fusion_det.errors import ConfigError

PRESETS = ("scenes", "scenes_context", "scenes_detail", "scenes_scale", "scenes_large")


@pytest.fixture(scope="module")
def plans() -> list[tuple[Thing, ...]]:
    """Layouts of the whole default data set; laying out costs a fifth of a millisecond."""
    settings = preset()
    return [plan(0, "train", index, settings) for index in range(1500)]


def objects_of(plans) -> list[Thing]:
    return [thing for things in plans for thing in things if thing.kind != "cue"]


# --- pure in (seed, split, index) ---------------------------------------------------------------------------------------------------


def test_same_seed_split_and_index_give_same_bytes_in_any_order():
    settings = preset(crowd_share=0.5)
    forward = {index: render(3, "train", index, settings) for index in range(6)}
    for index in (5, 0, 3, 3):
        again = render(3, "train", index, settings)
        for before, after in zip(forward[index], again, strict=True):
            assert before.tobytes() == after.tobytes()


@pytest.mark.parametrize("other", [(4, "train", 0), (3, "val", 0), (3, "train", 1)])
def test_seed_split_and_index_each_change_the_picture(other):
    settings = preset()
    assert not np.array_equal(render(3, "train", 0, settings).pixels, render(*other, settings).pixels)


def test_output_types_and_empty_pictures():
    scene = render(0, "val", 0, preset(empty_share=1.0))
    assert scene.pixels.shape == (160, 160, 3)
    assert scene.pixels.dtype == np.uint8
    assert scene.boxes.shape == (0, 4)
    assert scene.boxes.dtype == np.float32
    assert scene.labels.shape == scene.crowd.shape == scene.cue_distances.shape == (0,)


# --- exact boxes --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["disk", "square", "triangle", "diamond", "cross_red", "cue"])
def test_masks_touch_all_four_sides(kind):
    for size in range(4, 120):
        assert tight(shape_mask(kind, size)) == (0, 0, size, size)


def test_boxes_are_the_extent_of_what_is_drawn():
    settings = preset(crowd_share=0.3)
    seen = set()
    for index in range(80):
        for thing in plan(1, "train", index, settings):
            mask = drawn_alone(thing)
            assert tight(mask) == thing.footprint
            if thing.kind == "gap":
                x0, y0, x1, y1 = thing.box
                assert not mask[y0:y1, x0:x1].any()
                mask[y0:y1, x0:x1] = True
                assert mask[thing.footprint[1] : thing.footprint[3], thing.footprint[0] : thing.footprint[2]].all()
                assert all(3 <= abs(a - b) <= 6 for a, b in zip(thing.box, thing.footprint, strict=True))
            else:
                assert thing.box == thing.footprint
            seen.add((thing.kind, thing.crowd))
    assert {kind for kind, _ in seen} == {*settings.classes, "cue"}
    assert any(crowd for _, crowd in seen)


def test_nothing_overlaps_and_nothing_leaves_the_picture():
    for name, count in (("scenes", 300), ("scenes_large", 20)):
        settings = preset(name, crowd_share=0.2)
        for index in range(count):
            boxes = np.array([thing.footprint for thing in plan(2, "train", index, settings)], dtype=int).reshape(-1, 4)
            assert boxes.min(initial=0) >= 0
            assert boxes.max(initial=0) <= settings.image_size
            gaps = np.maximum(boxes[:, None, :2] - boxes[None, :, 2:], boxes[None, :, :2] - boxes[:, None, 2:]).max(axis=2)
            assert (gaps[~np.eye(len(boxes), dtype=bool)] >= settings.spacing).all()


# --- classes ------------------------------------------------------------------------------------------------------------------------


def test_shares_of_factors_and_balance_of_classes(plans):
    settings = preset()
    kinds = [thing.kind for thing in objects_of(plans)]
    for factor, share in zip(settings.factors, settings.shares, strict=True):
        counts = [kinds.count(kind) for kind in FACTORS[factor]]
        assert sum(counts) / len(kinds) == pytest.approx(share, abs=0.02)
        if factor != "context":  # crosses of one picture share their class; balanced over pictures, see below
            even = sum(counts) / len(counts)
            assert counts == pytest.approx([even] * len(counts), abs=4.5 * np.sqrt(even))


def test_hardly_any_object_is_left_out_and_large_ones_are_as_frequent_as_small_ones(plans):
    settings = preset()
    wanted = 1500 * (1 - settings.empty_share) * sum(settings.objects) / 2
    assert len(objects_of(plans)) > 0.96 * wanted
    sizes = np.array([thing.box[2] - thing.box[0] for thing in objects_of(plans) if thing.kind == "diamond"])
    low, high = settings.scale_size
    assert sizes.min() >= low
    assert sizes.max() <= high
    assert sizes.max() > 0.9 * high
    middle = np.sqrt(low * (high + 1))
    assert (sizes > middle).mean() == pytest.approx(0.5, abs=0.06)  # log-uniform


def test_textures_share_their_mean_and_differ():
    masks = [texture_mask(kind, 24, 1, 0) for kind in FACTORS["detail"]]
    assert [mask.mean() for mask in masks] == [0.5] * 3
    assert len({mask.tobytes() for mask in masks}) == 3
    assert (masks[0][0] == masks[0][0, 0]).all()  # horizontal: a row has one colour
    assert (masks[1][:, 0] == masks[1][0, 0]).all()


def test_a_factor_without_share_has_no_class():
    settings = preset("scenes_detail")
    assert [category["supercategory"] for category in settings.categories()] == ["plain"] * 3 + ["detail"] * 3 + ["precision"] * 2
    assert {thing.kind for index in range(100) for thing in plan(0, "train", index, settings)} == set(settings.classes)


# --- settings and presets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_same_keys_and_draw(name):
    values = values_of(name)
    assert list(values) == list(values_of("scenes"))
    assert values["name"] == name
    scene = render(0, "train", 0, preset(name))
    assert scene.pixels.shape == (values["image_size"], values["image_size"], 3)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"plain_size": (40, 20)}, "data.plain_size"),
        ({"scale_size": (6, 150)}, "data.scale_size"),
        ({"detail_size": (6, 20)}, "data.detail_size"),
        ({"cue_distance": (220, 240)}, "data.cue_distance"),
        ({"gap_margin": (1, 3)}, "data.gap_margin"),
        ({"crowd_share": 0.1, "plain": 0.0}, "data.crowd_share"),
        (dict.fromkeys(FACTORS, 0.0), "data"),
    ],
)
def test_settings_that_cannot_be_drawn_name_their_key(changes, key):
    with pytest.raises(ConfigError) as caught:
        preset(**changes)
    assert caught.value.where == key
    assert caught.value.mend
