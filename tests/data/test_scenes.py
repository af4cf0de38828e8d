"""The generated data set: a pure generator, exact boxes, no shortcut around the cue, files written whole or not at all."""

import json
import os
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from fusion_det.config.instantiate import build
from fusion_det.data.scenes import writer
from fusion_det.data.scenes.layout import Thing, lay_out
from fusion_det.data.scenes.paint import CROSS_COLOUR, CUE_COLOURS, draw, paint
from fusion_det.data.scenes.render import plan, render
from fusion_det.data.scenes.settings import FACTORS, SceneSettings
from fusion_det.data.scenes.shapes import shape_mask, texture_mask
from fusion_det.data.scenes.writer import ensure_written
from fusion_det.errors import ConfigError, DataError, FusionDetError

CONFIGS = Path(__file__).parents[2] / "configs" / "data"
PRESETS = ("scenes", "scenes_context", "scenes_detail", "scenes_scale", "scenes_large")
SMALL = {"train": 5, "val": 3}


def preset(name: str = "scenes", **changes) -> SceneSettings:
    values = {**yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()), **changes}
    return SceneSettings(**{field.name: values[field.name] for field in fields(SceneSettings)})


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


def tight(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@pytest.mark.parametrize("kind", ["disk", "square", "triangle", "diamond", "cross_red", "cue"])
def test_masks_touch_all_four_sides(kind):
    for size in range(4, 120):
        assert tight(shape_mask(kind, size)) == (0, 0, size, size)


def drawn_alone(thing: Thing) -> np.ndarray:
    """bool [H, W]: what the thing paints, found by painting it on two different grounds: painted pixels are equal on both."""
    colours = np.array([[200, 210, 190], [20, 30, 25]], dtype=np.uint8)
    grounds = [np.full((160, 160, 3), level, dtype=np.uint8) for level in (7, 99)]
    for ground in grounds:
        draw(ground, thing, colours)
    return (grounds[0] == grounds[1]).all(axis=2)


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


# --- context: the cue, and nothing but the cue --------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [(24, 40), (44, 64), (68, 130)])
def test_cue_lies_at_the_set_distance(limits):
    settings = preset("scenes_context", cue_distance=limits)
    crosses = 0
    for index in range(150):
        things = plan(0, "train", index, settings)
        cues = [thing for thing in things if thing.kind == "cue"]
        found = [thing for thing in things if thing.kind in FACTORS["context"]]
        assert len(cues) == (1 if found else 0)
        for cross in found:
            away = np.subtract(cross.box[:2], cues[0].box[:2]) + np.subtract(cross.box[2:], cues[0].box[2:])
            distance = np.hypot(*(away / 2))
            assert limits[0] <= distance <= limits[1]
            assert distance == pytest.approx(cross.cue_distance)
            assert cross.kind == FACTORS["context"][cues[0].label]
        crosses += len(found)
    assert crosses > 150 * 4 * 0.96 * 0.6 * 0.9  # hardly any finds no place


def test_with_several_cues_the_nearest_one_tells():
    settings = preset("scenes_context", cues=2, cue_distance=(24, 40))
    mixed = 0
    for index in range(150):
        things = plan(0, "train", index, settings)
        cues = [thing for thing in things if thing.kind == "cue"]
        crosses = [thing for thing in things if thing.kind in FACTORS["context"]]
        for cross in crosses:
            ways = [(np.add(cue.box[:2], cue.box[2:]) - np.add(cross.box[:2], cross.box[2:])) / 2 for cue in cues]
            distances = [np.hypot(*way) for way in ways]
            nearest = int(np.argmin(distances))
            assert cross.kind == FACTORS["context"][cues[nearest].label]
            assert max(distances) >= 1.5 * min(distances)
        mixed += len({cross.kind for cross in crosses}) == 2
    assert mixed > 10


def test_colour_of_the_cue_is_a_fair_coin(plans):
    labels = [thing.label for things in plans for thing in things if thing.kind == "cue"]
    assert len(labels) > 600
    assert np.mean(labels) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(len(labels)))


def test_layout_does_not_depend_on_the_colour_of_the_cue():
    settings = preset()
    for index in range(100):
        red, blue = (lay_out(settings, np.random.default_rng(index), (label,)) for label in (0, 1))
        assert [swapped(thing) for thing in red] == list(blue)


def test_pictures_of_both_classes_differ_in_the_cue_alone():
    settings = preset("scenes_context")
    checked = 0
    for index in range(30):
        things = plan(0, "train", index, settings)
        pictures = [paint(settings, version, np.random.default_rng(index)) for version in (things, [swapped(thing) for thing in things])]
        differs = (pictures[0] != pictures[1]).any(axis=2)
        for cue in (thing for thing in things if thing.kind == "cue"):
            assert tight(differs) == cue.box
            differs[drawn_alone(cue)] = False
            checked += 1
        assert not differs.any()
    assert checked > 20


def swapped(thing: Thing) -> Thing:
    """The same thing as the other class of the factor ``context``."""
    other = dict(zip(FACTORS["context"], reversed(FACTORS["context"]), strict=True))
    return replace(thing, kind=other.get(thing.kind, thing.kind), label=1 - thing.label if thing.kind == "cue" else thing.label)


def test_only_cues_are_red_or_blue_and_all_crosses_look_alike():
    settings = preset(noise=0)
    for index in range(40):
        things = plan(5, "train", index, settings)
        pixels = render(5, "train", index, settings).pixels.astype(int)
        excess = pixels[:, :, [0, 2]].max(axis=2) - pixels[:, :, 1]
        for thing in things:
            x0, y0, x1, y1 = thing.box
            if thing.kind == "cue":
                assert (pixels[(y0 + y1) // 2, (x0 + x1) // 2] == CUE_COLOURS[thing.label]).all()
                excess[y0:y1, x0:x1] = 0
            elif thing.kind in FACTORS["context"]:
                assert (pixels[y0:y1, x0:x1][shape_mask(thing.kind, x1 - x0)] == CROSS_COLOUR).all()
        assert excess.max() <= 40
        assert (CUE_COLOURS.astype(int)[:, [0, 2]].max(axis=1) - CUE_COLOURS[:, 1] > 120).all()


# --- files --------------------------------------------------------------------------------------------------------------------------


def test_files_are_valid_coco(tmp_path):
    settings = preset(crowd_share=0.5, empty_share=0.2)
    folder = ensure_written(tmp_path, "scenes", settings, SMALL)
    ids = set()
    for split, count in SMALL.items():
        coco = COCO(str(folder / "annotations" / f"instances_{split}.json"))
        assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(settings.classes)
        assert len(coco.getImgIds()) == len(list((folder / split).iterdir())) == count
        assert not ids & set(coco.getImgIds())
        ids |= set(coco.getImgIds())
        for index, record in enumerate(coco.loadImgs(sorted(coco.getImgIds()))):
            scene = render(settings.seed, split, index, settings)
            with Image.open(folder / split / record["file_name"]) as image:
                assert np.array_equal(np.asarray(image), scene.pixels)
            annotations = coco.loadAnns(coco.getAnnIds(imgIds=[record["id"]]))
            boxes = np.array([row["bbox"] for row in annotations]).reshape(-1, 4)
            assert np.array_equal(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1), scene.boxes)
            assert [row["category_id"] - 1 for row in annotations] == scene.labels.tolist()
            assert [row["iscrowd"] for row in annotations] == scene.crowd.tolist()
            assert [row["area"] for row in annotations] == (boxes[:, 2] * boxes[:, 3]).tolist()
            far = [row["cue_distance"] for row in annotations if "cue_distance" in row]
            assert far == pytest.approx([distance for distance in scene.cue_distances if distance == distance], abs=0.01)


def test_second_call_writes_nothing_and_other_settings_go_elsewhere(tmp_path, monkeypatch):
    first = ensure_written(tmp_path, "scenes", preset(), SMALL)
    with monkeypatch.context() as patched:
        patched.setattr(writer, "render", lambda *_: pytest.fail("drawn again"))
        assert ensure_written(tmp_path, "scenes", preset(), SMALL) == first
    others = {
        ensure_written(tmp_path, "scenes", preset(seed=1), SMALL),
        ensure_written(tmp_path, "scenes", preset(), {"train": 5, "val": 2}),
    }
    assert len(others | {first}) == 3


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch, failure):
    def fail_late(seed, split, index, settings):
        if (split, index) == ("val", 1):
            raise failure
        return render(seed, split, index, settings)

    with monkeypatch.context() as patched:
        patched.setattr(writer, "render", fail_late)
        with pytest.raises(KeyboardInterrupt if failure is KeyboardInterrupt else DataError):
            ensure_written(tmp_path, "scenes", preset(), SMALL)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_process_are_not_used_and_go_when_old(tmp_path):
    whole = ensure_written(tmp_path / "a", "scenes", preset(), SMALL)
    (tmp_path / "b").mkdir()
    young, old = (tmp_path / "b" / f".{whole.name}.{mark}" for mark in ("young", "old"))
    for draft in (young, old):
        draft.mkdir()
    os.utime(old, (0, 0))
    assert sorted(path.name for path in ensure_written(tmp_path / "b", "scenes", preset(), SMALL).iterdir()) == sorted(
        path.name for path in whole.iterdir()
    )
    assert young.exists()
    assert not old.exists()


def test_slower_of_two_writers_uses_the_folder_of_the_faster(tmp_path, monkeypatch):
    done = ensure_written(tmp_path / "other", "scenes", preset(), SMALL)

    def overtaken(*arguments):
        target = tmp_path / "here" / done.name
        if not target.exists():
            shutil.copytree(done, target)
            (target / "mark").touch()
        return render(*arguments)

    monkeypatch.setattr(writer, "render", overtaken)
    folder = ensure_written(tmp_path / "here", "scenes", preset(), SMALL)
    assert (folder / "mark").exists()
    assert list((tmp_path / "here").iterdir()) == [folder]


@pytest.mark.parametrize("damage", ["delete", "empty", "manifest"])
def test_damaged_folder_is_refused_in_one_line(tmp_path, damage):
    folder = ensure_written(tmp_path, "scenes", preset(), SMALL)
    picture = folder / "val" / "000001.png"
    if damage == "delete":
        picture.unlink()
    elif damage == "empty":
        picture.write_bytes(b"")
    else:
        (folder / "scenes.json").unlink()
    with pytest.raises(DataError, match="delete this folder") as caught:
        ensure_written(tmp_path, "scenes", preset(), SMALL)
    assert len(caught.value.lines) == 1
    assert str(folder) in str(caught.value)


def test_root_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").touch()  # a file where the folder should be: fails for root, too, unlike missing permission
    with pytest.raises(FusionDetError, match="cannot make the generated data set") as caught:
        ensure_written(tmp_path / "file" / "data", "scenes", preset(), SMALL)
    assert len(caught.value.lines) == 1
    assert "data.root" in str(caught.value)


def test_config_gives_an_ordinary_coco_source(tmp_path):
    values = yaml.safe_load((CONFIGS / "scenes.yaml").read_text())
    source = build({**values, "root": str(tmp_path), "train_images": 5, "val_images": 3})
    assert (len(source.train), len(source.val), source.image_size) == (5, 3, 160)
    assert [path.name for path in tmp_path.iterdir()] == [next(tmp_path.glob("scenes-*")).name]


# --- settings and presets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_same_keys_and_draw(name):
    values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert list(values) == list(yaml.safe_load((CONFIGS / "scenes.yaml").read_text()))
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


def test_name_cannot_lead_out_of_the_root(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.name"):
        ensure_written(tmp_path, "../elsewhere", preset(), SMALL)


def test_lists_and_tuples_share_one_folder(tmp_path):
    settings = preset()
    listed = SceneSettings(**json.loads(json.dumps(settings.as_dict())))
    assert listed == settings
    assert ensure_written(tmp_path, "scenes", listed, SMALL) == ensure_written(tmp_path, "scenes", settings, SMALL)
