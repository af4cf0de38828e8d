"""Every way in which an annotation file can be wrong: a DataError of one line per fault that names file and record."""

from __future__ import annotations

import copy
import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusion_det.data.coco_index import read_index
from fusion_det.errors import DataError, Faults, FusionDetError

Document = dict[str, Any]


@pytest.fixture
def document(coco_root: Path) -> Document:
    return json.loads((coco_root / "annotations/instances_train.json").read_text())


def refusal(text: str | bytes, tmp_path: Path, coco_root: Path) -> FusionDetError:
    file = tmp_path / "bad.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((DataError, Faults)) as caught:
        read_index(file, coco_root / "train")
    error = caught.value
    assert error.exit_code == 3
    assert all(len(line.splitlines()) == 1 and line.isprintable() and len(line) < 900 for line in error.lines)
    assert str(file) in str(error)
    return error


def _set(table: str, row: int, key: str, value: object) -> Callable[[Document], None]:
    return lambda document: document[table][row].__setitem__(key, value)


def _drop(table: str, row: int, key: str) -> Callable[[Document], None]:
    return lambda document: document[table][row].pop(key)


def _all_boxes(change: Callable[[list[float]], list[float]]) -> Callable[[Document], None]:
    def apply(document: Document) -> None:
        for annotation in document["annotations"]:
            annotation["bbox"] = change(annotation["bbox"])

    return apply


RECORD_FAULTS: dict[str, tuple[Callable[[Document], object], str]] = {
    "image id as string": (_set("images", 2, "id", "12"), r"id is not a whole number \(1 x\): images\[2\] .* has '12'.*JSON number"),
    "image id with fraction": (_set("images", 2, "id", 1.5), r"id is not a whole number .*images\[2\]"),
    "image id missing": (_drop("images", 2, "id"), r"id is not a whole number .*images\[2\] has None"),
    "image id too large": (_set("images", 2, "id", 10**30), r"id is not a whole number"),
    "image id a bool": (_set("images", 2, "id", True), r"id is not a whole number"),
    "image id twice": (_set("images", 2, "id", 10), r"image id given twice \(1 x\): images\[2\] \(id 10\)"),
    "category id twice": (_set("categories", 1, "id", 0), r"category id given twice"),
    "category id as string": (_set("categories", 1, "id", "7"), r"id is not a whole number .*categories\[1\]"),
    "category without name": (_drop("categories", 1, "name"), r"category without a name .*categories\[1\] \(id 7\)"),
    "category unknown": (_set("annotations", 3, "category_id", 99), r"category_id is not among the categories .*99 \(1 x\)"),
    "category null": (_set("annotations", 3, "category_id", None), r"category_id is not a whole number .*annotations\[3\]"),
    "image_id as string": (_set("annotations", 3, "image_id", "10"), r"image_id is not a whole number .*annotations\[3\]"),
    "box NaN": (_set("annotations", 3, "bbox", [float("nan"), 1, 2, 3]), r"bbox is not finite .*annotations\[3\] \(id 4\)"),
    "box all NaN": (_set("annotations", 3, "bbox", [float("nan")] * 4), r"bbox is not finite .*annotations\[3\] \(id 4\)"),
    "box infinite": (_set("annotations", 3, "bbox", [1, 1, float("inf"), 3]), r"bbox is not finite .*annotations\[3\] \(id 4\)"),
    "box beyond float": (_set("annotations", 3, "bbox", [1, 1, 10**400, 3]), r"bbox is not finite .*annotations\[3\] \(id 4\)"),
    "box of strings": (_set("annotations", 3, "bbox", ["1", 1, 2, 3]), r"bbox holds something that is not a number .*annotations\[3\]"),
    "box with null": (_set("annotations", 3, "bbox", [None, 1, 2, 3]), r"bbox holds something that is not a number"),
    "box with bool": (_set("annotations", 3, "bbox", [True, 1, 2, 3]), r"bbox holds something that is not a number"),
    "box nested": (_set("annotations", 3, "bbox", [[1, 1, 2, 3]]), r"bbox has 1 entries instead of 4"),
    "box nested in four": (_set("annotations", 3, "bbox", [[1], [1], [2], [3]]), r"bbox holds something that is not a number"),
    "box of three": (_set("annotations", 3, "bbox", [1, 2, 3]), r"bbox has 3 entries instead of 4 "),
    "box rotated": (_set("annotations", 3, "bbox", [1, 2, 3, 4, 30]), r"bbox has 5 entries instead of 4: rotated boxes are not supported"),
    "box of eight": (_set("annotations", 3, "bbox", [1] * 8), r"bbox has 8 entries"),
    "box an object": (_set("annotations", 3, "bbox", {"x": 1}), r"bbox is a dict instead of 4 numbers"),
    "box missing": (_drop("annotations", 3, "bbox"), r"bbox is missing and there is no polygon .*annotations\[3\] \(id 4\)"),
    "box and polygon broken": (
        lambda d: d["annotations"][3].update(bbox=[], segmentation=[[1, 2, 3]]),
        r"bbox is missing and the polygon is not a list of x, y pairs",
    ),
    "polygon of strings": (
        lambda d: d["annotations"][3].update(bbox=None, segmentation=[["1"] * 6]),
        r"the polygon holds something that is not a number",
    ),
    "polygon infinite": (
        lambda d: d["annotations"][3].update(bbox=None, segmentation=[[1, 2, 3, 4, 5, float("inf")]]),
        r"bbox is not finite .*annotations\[3\]",
    ),
    "crowd of 2": (_set("annotations", 3, "iscrowd", 2), r"iscrowd is neither 0 nor 1 .*annotations\[3\] \(id 4\) has 2"),
    "crowd as string": (_set("annotations", 3, "iscrowd", "0"), r"iscrowd is neither 0 nor 1"),
    "width zero": (_set("images", 1, "width", 0), r"width or height is not positive .*images\[1\]"),
    "width as string": (_set("images", 1, "width", "64"), r"width is not a whole number .*images\[1\]"),
    "file missing": (_set("images", 1, "file_name", "no.png"), r"image files not found in .*/train \(1 x\): no\.png"),
    "file_name missing": (_drop("images", 1, "file_name"), r"file_name is missing .*images\[1\]"),
    "file_name a number": (_set("images", 1, "file_name", 5), r"file_name is a int .*images\[1\]"),
    "normalised boxes": (_all_boxes(lambda box: [value / 200 for value in box]), r"all box numbers are at most 1.*multiply"),
    "corner boxes": (
        _all_boxes(lambda b: [b[0] + 50, b[1] + 50, b[0] + b[2] + 50, b[1] + b[3] + 50]),
        r"leave their picture.*x1, y1, x2, y2",
    ),
    "boxes of larger pictures": (_all_boxes(lambda box: [600, 9, *box[2:]]), r"leave their picture by far.*pixels of these pictures"),
    "no box left": (_all_boxes(lambda box: [*box[:3], 0]), r"not one box can be trained on \(18 x boxes without width or height"),
    "only crowds": (lambda d: [a.update(iscrowd=1) for a in d["annotations"]], r"not one box can be trained on \(all are crowds\)"),
}


@pytest.mark.parametrize("fault", RECORD_FAULTS)
def test_wrong_record(fault: str, document: Document, tmp_path: Path, coco_root: Path) -> None:
    change, told = RECORD_FAULTS[fault]
    change(document)
    error = refusal(json.dumps(document), tmp_path, coco_root)
    assert len(error.lines) == 1
    assert re.search(told, str(error)), str(error)


def test_all_faults_are_told_at_once(document: Document, tmp_path: Path, coco_root: Path) -> None:
    for fault in ("image id as string", "category unknown", "box NaN", "box rotated", "crowd of 2", "file missing"):
        RECORD_FAULTS[fault][0](document)
    for row in range(5, 12):
        document["annotations"][row]["bbox"] = [1, 2]
    error = refusal(json.dumps(document), tmp_path, coco_root)
    assert len(error.lines) == 6
    assert "bbox has 2 entries instead of 4 (7 x): annotations[5] (id 6), " in str(error)
    assert "annotations[9] (id 10) and 2 more" in str(error)


def test_missing_files_are_gathered_and_looked_for_nearby(document: Document, tmp_path: Path, coco_root: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(
        DataError, match=rf"not found in .*/val \(8 x\): train_000.jpg.* and 3 more -> train_000.jpg is in {coco_root}/train"
    ):
        read_index(tmp_path / "a.json", coco_root / "val")
    with pytest.raises(DataError, match=r"image folder .*/nowhere does not exist"):
        read_index(tmp_path / "a.json", coco_root / "nowhere")


UNSAFE_NAMES = [
    *("/etc/passwd", "../val/val_000.jpg", "a/../../b.jpg", "..", "http://x.org/a.jpg", "file:///etc/passwd", "s3://a/b.jpg", "a\0.jpg"),
    *("C:/a.jpg", "C:\\a.jpg", "..\\a.jpg", "a\\b.jpg", "", " ", ".", "./", "a" * 5000, "a/" * 600 + "b.jpg"),
]


@pytest.mark.parametrize("name", UNSAFE_NAMES)
def test_nothing_outside_the_image_folder_is_opened(name: str, document: Document, tmp_path: Path, coco_root: Path) -> None:
    document["images"][1]["file_name"] = name
    del document["images"][1]["width"]  # would have to be read from the picture
    (tmp_path / "bad.json").write_text(json.dumps(document))
    opened: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in ("open", "os.scandir", "os.listdir"):
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)
    try:
        with pytest.raises(DataError, match=r"file_name .*images\[1\]"):
            read_index(tmp_path / "bad.json", coco_root / "train")
    finally:
        watching = False
    inside = (str(tmp_path / "bad.json"), str(coco_root / "train"))
    assert any(path == inside[0] for path in opened)
    assert [path for path in opened if not path.startswith(inside) and not path.endswith((".py", ".pyc"))] == []


def test_harmless_names_that_look_odd_are_only_missing(document: Document, tmp_path: Path, coco_root: Path) -> None:
    for name in ("~/a.jpg", "$HOME/a.jpg", "a..b.jpg", "\u202egpj.exe", "bad\udcff.jpg"):
        document["images"][1]["file_name"] = name
        assert "image files not found" in str(refusal(json.dumps(document), tmp_path, coco_root))


FOREIGN = {
    "results": ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]', "a COCO results file"),
    "list": ("[]", "a JSON list"),
    "null": ("null", "a JSON NoneType"),
    "labelme": ('{"version": "5", "shapes": [], "imagePath": "a.jpg"}', "a labelme file"),
    "via": ('{"_via_settings": {}, "_via_img_metadata": {}}', "VGG Image Annotator"),
    "captions": ('{"images": [{}], "annotations": [{"image_id": 1, "caption": "a dog"}]}', "captions"),
    "panoptic": ('{"images": [{}], "annotations": [{"segments_info": []}], "categories": [{}]}', "panoptic"),
    "video": ('{"videos": [], "images": [{}], "annotations": [], "categories": [{}]}', "video"),
    "yolo": ("0 0.5 0.5 0.25 0.25\n1 0.1 0.2 0.3 0.4\n", "a YOLO label file"),
    "voc": ("<annotation><folder>a</folder></annotation>", "XML"),
    "html": ("<!DOCTYPE html><html>404</html>", "HTML"),
    "no images": ('{"annotations": [], "categories": []}', "without images (it has annotations, categories)"),
    "no annotations": ('{"images": [], "categories": []}', "without annotations"),
    "nothing": ("{}", "without images and annotations and categories (it has nothing)"),
    "zero images": ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "'images' is empty"),
    "zero categories": ('{"images": [{}], "annotations": [], "categories": []}', "'categories' is empty"),
    "images an object": ('{"images": {}, "annotations": [], "categories": []}', "'images' must be a list, got dict"),
    "record a number": ('{"images": [5], "annotations": [], "categories": [{}]}', "images[0] must be an object, got int"),
    "empty": ("", "empty (0 bytes)"),
    "blank": ("  \n ", "empty (4 bytes)"),
    "not UTF-8": (b'{"images": "\xff"}', "not text in utf-8"),
    "syntax": ('{\n "images": [,]}', "bad.json:2:13: not valid JSON"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "long number": ('{"a": ' + "9" * 100_000 + "}", "a number that cannot be read"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_not_a_coco_file(kind: str, tmp_path: Path, coco_root: Path) -> None:
    text, told = FOREIGN[kind]
    error = refusal(text, tmp_path, coco_root)
    assert told in str(error), str(error)


def test_no_annotations_at_all(document: Document, tmp_path: Path, coco_root: Path) -> None:
    document["annotations"] = []
    assert "not one annotation" in str(refusal(json.dumps(document), tmp_path, coco_root))


def test_file_cut_anywhere_is_told_as_cut(coco_root: Path, tmp_path: Path) -> None:
    text = (coco_root / "annotations/instances_train.json").read_text()
    for length in range(1, len(text) - 1, len(text) // 60):
        error = refusal(text[:length], tmp_path, coco_root)
        assert f"bad.json:1:{error.where.rsplit(':', 1)[1]}" in str(error)
        assert "ends in the middle" in str(error) or "not valid JSON" in str(error)


def test_missing_annotation_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="annotation file not found"):
        read_index(tmp_path / "no.json", tmp_path)
    with pytest.raises(DataError, match="is not a file"):
        read_index(tmp_path, tmp_path)


def test_random_damage_never_gives_another_error(document: Document, tmp_path: Path, coco_root: Path) -> None:
    """Values swapped for odd ones, keys and records dropped, bytes changed: each file is read with sound boxes, or refused."""
    rng = random.Random(3)
    odd = [None, -1, 0, 1.5, 1e308, float("nan"), "7", "", [], [1], {}, {"a": 1}, True, 2**63, 10**400, [[]], [None] * 4, "\ud800"]
    refused, told = 0, [""]
    for _ in range(400):
        damaged = copy.deepcopy(document)
        for _ in range(rng.randint(1, 3)):
            table = rng.choice([*damaged.values()])
            record = rng.choice(table)
            key = rng.choice([*record, "segmentation", "supercategory"])
            action = rng.randrange(4)
            if action == 0:
                record.pop(key, None)
            elif action == 1 and key == "bbox" and isinstance(record.get(key), list) and record[key]:
                record[key][rng.randrange(len(record[key]))] = rng.choice(odd)
            else:
                record[key] = rng.choice(odd)
        text = json.dumps(damaged)
        if rng.random() < 0.2:
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice('[]{},:"0x') + text[at + 1 :]
        (tmp_path / "bad.json").write_text(text)
        try:
            index = read_index(tmp_path / "bad.json", coco_root / "train")
        except FusionDetError as error:
            refused += 1
            told += error.lines
            continue
        for image in range(len(index)):
            boxes = index.targets(image)[0]
            assert np.isfinite(boxes).all()
            assert ((boxes[:, 2:] - boxes[:, :2]) >= 1).all()
            assert (boxes <= np.tile(index.sizes[image][::-1], 2)).all()
    assert all(line.isprintable() for line in told)
    assert 100 < refused < 390
