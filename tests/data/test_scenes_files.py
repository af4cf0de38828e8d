"""Scenes on disk: valid COCO, written whole or not at all, and once."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from scenes_preset import preset, values_of

from fusion_det.config.instantiate import build
from fusion_det.data.scenes import writer
from fusion_det.data.scenes.render import render
from fusion_det.data.scenes.settings import SceneSettings
from fusion_det.data.scenes.writer import ensure_written
from fusion_det.errors import ConfigError, DataError, FusionDetError

SMALL = {"train": 5, "val": 3}


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
    values = values_of("scenes")
    source = build({**values, "root": str(tmp_path), "train_images": 5, "val_images": 3})
    assert (len(source.train), len(source.val), source.image_size) == (5, 3, 160)
    assert [path.name for path in tmp_path.iterdir()] == [next(tmp_path.glob("scenes-*")).name]


def test_name_cannot_lead_out_of_the_root(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.name"):
        ensure_written(tmp_path, "../elsewhere", preset(), SMALL)


def test_lists_and_tuples_share_one_folder(tmp_path):
    settings = preset()
    listed = SceneSettings(**json.loads(json.dumps(settings.as_dict())))
    assert listed == settings
    assert ensure_written(tmp_path, "scenes", listed, SMALL) == ensure_written(tmp_path, "scenes", settings, SMALL)
