"""A data set on disk becomes a source for a run; what does not fit together is told."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import pytest
import yaml

from fusion_det.data.augment import Augment
from fusion_det.data.sources import coco, one_split
from fusion_det.errors import DataError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def copied(coco_root: Path, tmp_path: Path) -> Path:
    shutil.copytree(coco_root, tmp_path / "set")
    return tmp_path / "set"


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_source_of_a_good_set(coco_root: Path) -> None:
    source = coco(root=str(coco_root), image_size=64)
    assert (len(source.train), len(source.val), source.image_size) == (8, 4, 64)
    assert source.val.ledger.lines() == []
    assert source.train.digest != source.val.digest


def test_root_may_be_relative_or_at_home(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copied.parent)
    monkeypatch.setenv("HOME", str(copied.parent))
    assert one_split("set", "val").digest == one_split("~/set", "valid").digest
    with pytest.raises(DataError, match="the data folder does not exist"):
        one_split("other", "val")


def test_files_and_folders_may_be_named(copied: Path) -> None:
    (copied / "annotations/instances_val.json").rename(copied / "mine.json")
    (copied / "val").rename(copied / "pictures")
    source = coco(root=str(copied), image_size=64, val_annotations="mine.json", val_images=str(copied / "pictures"))
    assert len(source.val) == 4
    with pytest.raises(DataError, match=r"no annotations of the split 'val'.*data\.val_split=train"):
        coco(root=str(copied), image_size=64)


def test_other_classes_are_refused(copied: Path) -> None:
    rewrite(
        copied / "annotations/instances_val.json", categories=[{"id": i, "name": n} for i, n in ((0, "red"), (7, "green"), (90, "azure"))]
    )
    with pytest.raises(DataError, match=r"only in train: blue \(id 90\); only in val: azure \(id 90\)"):
        coco(root=str(copied), image_size=64)


def test_shared_pictures_are_counted(copied: Path) -> None:
    one_file = coco(root=str(copied), image_size=64, val_split="train").val.ledger
    assert list(one_file.counts.values()) == [8]
    shutil.copytree(copied / "train", copied / "test")
    shutil.copy(copied / "annotations/instances_train.json", copied / "annotations/instances_test.json")
    copies = coco(root=str(copied), image_size=64, val_split="test").val.ledger
    assert list(copies.counts.values()) == [7]  # the picture without boxes has nothing but its name in common
    assert "train_000.jpg" in copies.lines()[0]


def test_same_names_of_other_pictures_are_no_overlap(copied: Path) -> None:
    document = json.loads((copied / "annotations/instances_val.json").read_text())
    for number, record in enumerate(document["images"]):
        name = f"train_{number:03d}.{'png' if number % 3 else 'jpg'}"
        (copied / "val" / record["file_name"]).rename(copied / "val" / name)
        record["file_name"] = name
    rewrite(copied / "annotations/instances_val.json", images=document["images"])
    assert coco(root=str(copied), image_size=64).val.ledger.lines() == []


@pytest.mark.parametrize("file", ["data/coco.yaml", "augment/default.yaml", "augment/none.yaml", "augment/strong.yaml"])
def test_configs_list_every_key(file: str) -> None:
    settings = yaml.safe_load((CONFIGS / file).read_text())
    target = {"coco": coco, "Augment": Augment}[settings.pop("_target_").rpartition(".")[2]]
    assert list(settings) == list(inspect.signature(target).parameters)
    for name, parameter in inspect.signature(target).parameters.items():
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default in (parameter.empty, settings[name])
