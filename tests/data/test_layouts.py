"""The usual folder layouts are found, and what is not found is told with what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusion_det.data.layouts import find_split, known_splits
from fusion_det.errors import DataError


def make(root: Path, *paths: str) -> Path:
    """Folders for names that end in a slash, empty files for the others."""
    for path in paths:
        if path.endswith("/"):
            (root / path).mkdir(parents=True, exist_ok=True)
        else:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
    return root


LAYOUTS = [
    (("annotations/instances_train.json", "train/"), "train", "annotations/instances_train.json", "train"),
    (("annotations/instances_train2017.json", "train2017/"), "train", "annotations/instances_train2017.json", "train2017"),
    (("annotations/instances_train2017.json", "train/"), "train", "annotations/instances_train2017.json", "train"),
    (("annotations/instances_val.json", "images/val/"), "val", "annotations/instances_val.json", "images/val"),
    (("annotations/instances_val2017.json", "images/val2017/", "images/"), "val", "annotations/instances_val2017.json", "images/val2017"),
    (("annotations/instances_val.json", "images/"), "val", "annotations/instances_val.json", "images"),
    (("annotations/instances_val.json",), "val", "annotations/instances_val.json", ""),
    (("annotations/instances_valid.json", "valid/"), "val", "annotations/instances_valid.json", "valid"),
    (("annotations/instances_val.json", "validation/"), "validation", "annotations/instances_val.json", "val*"),
    (("annotations/instances_train_small.json", "train/"), "train", "annotations/instances_train_small.json", "train"),
    (("annotations/instances_train_small.json", "train_small/"), "train_small", "annotations/instances_train_small.json", "train_small"),
    (
        ("annotations/instances_train.json", "annotations/instances_train2017.json", "train/"),
        "train",
        "annotations/instances_train.json",
        "train",
    ),
    (
        ("annotations/instances_val2017.json", "annotations/instances_valid.json", "val/"),
        "val",
        "annotations/instances_val2017.json",
        "val",
    ),
    (("annotations/instances_test.json", "images/"), "test", "annotations/instances_test.json", "images"),
    (("train/_annotations.coco.json",), "train", "train/_annotations.coco.json", "train"),
    (("valid/_annotations.coco.json", "train/_annotations.coco.json"), "val", "valid/_annotations.coco.json", "valid"),
    (("val/_annotations.coco.json",), "valid", "val/_annotations.coco.json", "val"),
]


@pytest.mark.parametrize(("paths", "split", "annotations", "images"), LAYOUTS)
def test_layout(paths: tuple[str, ...], split: str, annotations: str, images: str, tmp_path: Path) -> None:
    make(tmp_path, *paths)
    images = "validation" if images == "val*" else images
    assert find_split(tmp_path, split) == (tmp_path / annotations, tmp_path / images)


def test_named_file_and_folder_win(tmp_path: Path) -> None:
    make(tmp_path, "annotations/instances_train.json", "train/", "mine/a.json", "pictures/")
    found = find_split(tmp_path, "train", annotation_file=Path("mine/a.json"), image_dir=tmp_path / "pictures")
    assert found == (tmp_path / "mine/a.json", tmp_path / "pictures")
    assert find_split(tmp_path, "train", annotation_file=Path("mine/a.json"))[1] == tmp_path / "train"
    with pytest.raises(DataError, match=r"mine/b.json: annotation file not found"):
        find_split(tmp_path, "train", annotation_file=Path("mine/b.json"))
    with pytest.raises(DataError, match=r"nowhere: image folder not found"):
        find_split(tmp_path, "train", image_dir=Path("nowhere"))


def test_no_such_root(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: the data folder does not exist -> set data\.root"):
        find_split(tmp_path / "nowhere", "train")


def test_no_val_split_says_how_to_name_one(tmp_path: Path) -> None:
    make(tmp_path, "annotations/instances_train.json", "annotations/instances_test.json", "images/")
    with pytest.raises(
        DataError, match=r"instances_val\*.json and val/_annotations.coco.json; there is .*has test, train: .*data\.val_split=train"
    ):
        find_split(tmp_path, "val")
    assert known_splits(tmp_path) == ["test", "train"]


def test_foreign_folder_lists_what_is_there(tmp_path: Path) -> None:
    make(tmp_path, "labels/a.txt", "coco/annotations/instances_train.json", "readme.md")
    with pytest.raises(DataError, match=r"there is coco/, labels/, readme.md -> set data.root"):
        find_split(tmp_path, "train")
    with pytest.raises(DataError, match=r"there is nothing"):
        find_split(make(tmp_path, "empty/") / "empty", "train")


def test_several_files_fit(tmp_path: Path) -> None:
    make(tmp_path, "annotations/instances_train2014.json", "annotations/instances_train2017.json", "train/")
    with pytest.raises(
        DataError, match=r"several annotation files fit the split 'train': instances_train2014.json, instances_train2017.json"
    ):
        find_split(tmp_path, "train")


@pytest.mark.parametrize("split", ["", "../x", "a/b", "*", "tr[a]in", "a\0"])
def test_odd_split_names(split: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be the name of a split"):
        find_split(tmp_path, split)
