"""A good annotation file becomes the right arrays, oddities are mended and counted, and AP equals that of the raw file."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fusion_det.data.coco_index import CocoIndex, read_index
from fusion_det.errors import DataError

Document = dict[str, Any]


@pytest.fixture
def train(coco_root: Path) -> CocoIndex:
    return read_index(coco_root / "annotations/instances_train.json", coco_root / "train")


@pytest.fixture
def document(coco_root: Path) -> Document:
    return json.loads((coco_root / "annotations/instances_train.json").read_text())


def read(document: Document, tmp_path: Path, coco_root: Path) -> CocoIndex:
    (tmp_path / "a.json").write_text(json.dumps(document))
    return read_index(tmp_path / "a.json", coco_root / "train")


def test_arrays_are_those_of_the_file(train: CocoIndex, document: Document) -> None:
    assert (len(train), train.name) == (8, "train")
    assert train.category_ids == (0, 7, 90)
    assert train.class_names == ("red", "green", "blue")
    assert train.sizes.tolist() == [[record["height"], record["width"]] for record in document["images"]]
    assert train.ledger.lines() == []
    for image, record in enumerate(document["images"]):
        mine = [annotation for annotation in document["annotations"] if annotation["image_id"] == record["id"]]
        boxes, labels, crowd = train.targets(image)
        assert boxes.tolist() == [[x, y, x + w, y + h] for x, y, w, h in (annotation["bbox"] for annotation in mine)]
        assert [train.category_ids[label] for label in labels] == [annotation["category_id"] for annotation in mine]
        assert crowd.tolist() == [bool(annotation["iscrowd"]) for annotation in mine]
        assert train.path(image).is_file()
    assert train.targets(3)[0].shape == (0, 4)


def test_annotations_in_any_order_are_grouped_by_picture(train: CocoIndex, document: Document, tmp_path: Path, coco_root: Path) -> None:
    document["annotations"].sort(key=lambda annotation: (-annotation["image_id"], annotation["id"]))
    other = read(document, tmp_path, coco_root)
    assert np.array_equal(other.starts, train.starts)
    assert np.array_equal(other.xywh, train.xywh)
    assert other.digest == train.digest


def test_digest_sees_content_and_not_formatting(train: CocoIndex, document: Document, tmp_path: Path, coco_root: Path) -> None:
    digests = {train.digest}
    changes = [("annotations", 0, "bbox", [1, 2, 13, 14]), ("annotations", 0, "category_id", 90), ("images", 0, "id", 999)]
    changes += [("categories", 0, "name", "rouge"), ("annotations", 2, "iscrowd", 1), ("annotations", 0, "area", 5)]
    (tmp_path / "b.json").write_text(json.dumps(document, indent=3))
    assert read_index(tmp_path / "b.json", coco_root / "train").digest == train.digest
    for table, row, key, value in changes:
        changed = copy.deepcopy(document)
        changed[table][row][key] = value
        digests.add(read(changed, tmp_path, coco_root).digest)
    assert len(digests) == len(changes) + 1


def test_missing_area_and_iscrowd_are_filled_and_counted(train: CocoIndex, document: Document, tmp_path: Path, coco_root: Path) -> None:
    for annotation in document["annotations"][:-1]:
        del annotation["area"], annotation["iscrowd"]
    other = read(document, tmp_path, coco_root)
    assert other.digest == train.digest
    count = len(document["annotations"]) - 1
    assert set(other.ledger.counts.values()) == {count}
    assert len(other.ledger.counts) == 2
    assert all(line.endswith(f"and {count - 5} more") for line in other.ledger.lines())


@pytest.mark.parametrize("area", [float("nan"), -3, "12", None, True])
def test_impossible_area_is_width_times_height(area: object, train: CocoIndex, document: Document, tmp_path: Path, coco_root: Path) -> None:
    document["annotations"][4]["area"] = area
    other = read(document, tmp_path, coco_root)
    assert other.digest == train.digest
    assert list(other.ledger.counts.values()) == [1]


def test_box_is_taken_from_the_polygons(train: CocoIndex, document: Document, tmp_path: Path, coco_root: Path) -> None:
    annotation = document["annotations"][0]
    x, y, w, h = annotation.pop("bbox")
    annotation["segmentation"] = [[x, y, x + w, y, x + 1, y + 2], [x, y + h, x + 2, y + 1, x + 3, y + 3]]
    other = read(document, tmp_path, coco_root)
    assert np.array_equal(other.xywh, train.xywh)
    assert "polygon" in other.ledger.lines()[0]


def test_whole_floats_are_numbers(train: CocoIndex, document: Document, tmp_path: Path, coco_root: Path) -> None:
    for record in document["images"] + document["categories"]:
        record["id"] = float(record["id"])
    for annotation in document["annotations"]:
        annotation |= {"image_id": float(annotation["image_id"]), "category_id": float(annotation["category_id"]), "iscrowd": 0.0}
    document["annotations"][-1]["iscrowd"] = 1.0
    other = read(document, tmp_path, coco_root)
    assert other.digest == train.digest
    assert other.ledger.counts["id stored as a whole float"] == 8 + 3


@pytest.mark.parametrize("ids", ["same", "zero", "missing"])
def test_annotation_ids_are_renumbered(ids: str, train: CocoIndex, document: Document, tmp_path: Path, coco_root: Path) -> None:
    if ids == "same":
        document["annotations"][1]["id"] = document["annotations"][0]["id"]
    elif ids == "zero":
        document["annotations"][0]["id"] = 0
    else:
        del document["annotations"][0]["id"]
    other = read(document, tmp_path, coco_root)
    assert other.digest == train.digest
    assert [annotation["id"] for annotation in other.ground_truth()["annotations"]] == list(range(1, len(train.labels) + 1))
    assert list(other.ledger.counts.values()) == [1]


def test_annotations_of_unknown_pictures_are_dropped(train: CocoIndex, document: Document, tmp_path: Path, coco_root: Path) -> None:
    document["annotations"].insert(3, {**document["annotations"][0], "id": 777, "image_id": 12345})
    other = read(document, tmp_path, coco_root)
    assert other.digest == train.digest
    assert other.ledger.lines() == ["1 x annotations of pictures that are not in the file, dropped: annotations[3] (id 777)"]


@pytest.mark.parametrize(
    ("box", "cause", "usable"),
    [
        ([5, 5, 0, 9], "without width", False),
        ([5, 5, 9, -4], "without width", False),
        ([200, 5, 9, 9], "outside", False),
        ([-30, 5, 30, 9], "outside", False),
        ([95.5, 5, 9, 9], "under 1 pixel", False),
        ([5, 5, 0.9, 9], "under 1 pixel", False),
        ([-4, -4, 9, 9], "clipped", True),
        ([90, 60, 9, 9], "clipped", True),
    ],
)
def test_odd_boxes_are_counted(
    box: list[float], cause: str, usable: bool, train: CocoIndex, document: Document, tmp_path: Path, coco_root: Path
) -> None:
    document["annotations"][0]["bbox"] = box
    other = read(document, tmp_path, coco_root)
    (line,) = other.ledger.lines()
    assert cause in line
    assert bool(other.usable[0]) is usable
    assert other.ground_truth()["annotations"][0]["bbox"] == box
    boxes = other.targets(0)[0]
    assert len(boxes) == len(train.targets(0)[0]) - (not usable)
    assert (boxes >= 0).all()
    assert (boxes <= [96, 64, 96, 64]).all()


def test_roboflow_umbrella_class_is_left_out(document: Document, tmp_path: Path, coco_root: Path, train: CocoIndex) -> None:
    for category in document["categories"]:
        category["supercategory"] = "shapes"
    with_umbrella = [{"id": -1, "name": "shapes", "supercategory": "none"}, *document["categories"]]
    other = read({**document, "categories": with_umbrella}, tmp_path, coco_root)
    assert other.class_names == train.class_names
    assert "umbrella" in other.ledger.lines()[0]
    document["annotations"][0]["category_id"] = -1
    assert len(read({**document, "categories": with_umbrella}, tmp_path, coco_root).class_names) == 4


def test_an_unused_class_stays_a_class(document: Document, tmp_path: Path, coco_root: Path) -> None:
    document["categories"].append({"id": 91, "name": "white", "supercategory": "none"})
    assert read(document, tmp_path, coco_root).class_names == ("red", "green", "blue", "white")


def test_missing_sizes_come_from_the_pictures(train: CocoIndex, document: Document, tmp_path: Path, coco_root: Path) -> None:
    del document["images"][0]["width"], document["images"][1]["height"]
    other = read(document, tmp_path, coco_root)
    assert other.digest == train.digest
    assert list(other.ledger.counts.values()) == [2]


def test_names_may_differ_in_case_and_unicode_form(tmp_path: Path, document: Document) -> None:
    for record, there in zip(document["images"], ["ä.JPG", "b.png", *"cdefgh"], strict=True):
        (tmp_path / "pictures" / "sub").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (record["width"], record["height"])).save(tmp_path / "pictures" / "sub" / there, "png")
    names = ["sub/a\u0308.jpg", "sub/B.png ", *(f"sub/{letter}" for letter in "cdefgh")]
    for record, name in zip(document["images"], names, strict=True):
        record["file_name"] = name
    (tmp_path / "a.json").write_text(json.dumps(document))
    index = read_index(tmp_path / "a.json", tmp_path / "pictures")
    assert index.file_names[:2] == ["sub/ä.JPG", "sub/b.png"]
    assert list(index.ledger.counts.values()) == [2]


def test_byte_order_mark_and_utf16_are_read(document: Document, tmp_path: Path, coco_root: Path, train: CocoIndex) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "a.json").write_text(json.dumps(document), encoding=encoding)
        assert read_index(tmp_path / "a.json", coco_root / "train").digest == train.digest


def test_repeated_names_are_counted(document: Document, tmp_path: Path, coco_root: Path) -> None:
    document["categories"][1]["name"] = "red"
    document["images"][2]["file_name"] = document["images"][0]["file_name"]
    ledger = read(document, tmp_path, coco_root).ledger
    assert ledger.counts == {"category name given twice": 1, "file_name given twice": 1}


def test_check_same_classes_names_the_difference(train: CocoIndex, document: Document, tmp_path: Path, coco_root: Path) -> None:
    train.check_same_classes(train)
    document["categories"][1]["name"] = "lime"
    with pytest.raises(DataError, match=r"only in train: green \(id 7\); only in a: lime \(id 7\)"):
        train.check_same_classes(read(document, tmp_path, coco_root))


def _coco(document: Document) -> COCO:
    coco = COCO()
    coco.dataset = copy.deepcopy(document)
    coco.createIndex()
    return coco


def _score(ground_truth: Document, detections: list[Document]) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _coco(ground_truth)
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def test_ground_truth_scores_like_the_raw_file(tmp_path: Path) -> None:
    """Random boxes with decimals, crowds, areas unlike the boxes, boxes over the edge: all 12 numbers equal, bit for bit."""
    rng = np.random.default_rng(5)
    images = [{"id": int(number), "file_name": f"{number}.png", "width": 400, "height": 300} for number in rng.permutation(60)[:20]]
    for record in images:
        Image.new("RGB", (400, 300)).save(tmp_path / record["file_name"])
    annotations, detections = [], []
    for number in range(150):
        box = np.round(rng.random(4) * [350, 250, 150, 120] + [-5, -5, 1.5, 1.5], 2)
        identity = {"image_id": images[int(rng.integers(20))]["id"], "category_id": int(rng.choice([3, 8, 41]))}
        area = round(float(box[2] * box[3] * rng.uniform(0.3, 1)), 3)
        annotations.append({"id": 1000 - number, **identity, "bbox": box.tolist(), "area": area, "iscrowd": int(rng.random() < 0.1)})
        for _ in range(2):
            guess = np.round(box + rng.normal(0, 4, 4), 2).clip(min=[-9, -9, 1, 1])
            detections.append({**identity, "bbox": guess.tolist(), "score": float(rng.random())})
    document = {"images": images, "annotations": annotations, "categories": [{"id": i, "name": f"c{i}"} for i in (41, 3, 8)]}
    (tmp_path / "raw.json").write_text(json.dumps(document))
    expected = _score(document, detections)
    assert 0.1 < expected[0] < 0.9
    assert np.array_equal(_score(read_index(tmp_path / "raw.json", tmp_path).ground_truth(), detections), expected)
    for annotation in annotations[::3]:
        annotation["id"] = 0  # the same file with ids that pycocotools stumbles over
    (tmp_path / "raw.json").write_text(json.dumps(document))
    assert np.array_equal(_score(read_index(tmp_path / "raw.json", tmp_path).ground_truth(), detections), expected)
