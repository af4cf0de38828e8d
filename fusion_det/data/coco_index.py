"""A COCO annotation file as arrays: read once, checked as a whole, cheap to share between processes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fusion_det.data.coco_file import read_coco
from fusion_det.data.coco_tables import Category, category_table, image_table, object_table
from fusion_det.data.ledger import Findings, Ledger, printable
from fusion_det.errors import DataError


@dataclass(frozen=True, eq=False)
class CocoIndex:
    """N pictures with M annotated objects, grouped by picture.

    Boxes are float64 ``xyxy`` in the original frame. ``xywh`` keeps the numbers of the file for evaluation, unclipped and unrounded.
    """

    name: str
    annotation_file: Path
    image_dir: Path
    categories: tuple[Category, ...]
    """Sorted by id; class index = position."""
    image_ids: np.ndarray
    """int64 [N], as in the file."""
    file_names: list[str]
    """Relative to ``image_dir``, as spelt on disk."""
    sizes: np.ndarray
    """int64 [N, 2]: height and width as annotated."""
    starts: np.ndarray
    """int64 [N + 1]: the objects of picture i are rows starts[i] to starts[i + 1]."""
    xywh: np.ndarray
    """float64 [M, 4]: the boxes of the file, untouched."""
    labels: np.ndarray
    """int64 [M], contiguous class indices."""
    crowd: np.ndarray
    """bool [M]."""
    area: np.ndarray
    """float64 [M]: the annotated area (of the mask, where the file has masks), for APs, APm and APl."""
    usable: np.ndarray
    """bool [M]: at least 1 x 1 pixel once clipped to the picture; may be trained on (crowds as regions to ignore)."""
    ledger: Ledger
    """What was mended, dropped or noticed while reading."""

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def boxes(self) -> np.ndarray:
        """float64 [M, 4] xyxy, original frame, unclipped."""
        return np.concatenate([self.xywh[:, :2], self.xywh[:, :2] + self.xywh[:, 2:]], axis=1)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class index."""
        return tuple(category.name for category in self.categories)

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Original category ids by class index."""
        return tuple(category.id for category in self.categories)

    def path(self, image: int) -> Path:
        """Where picture ``image`` lies."""
        return self.image_dir / self.file_names[image]

    def targets(self, image: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The usable objects of one picture: boxes float64 [n, 4] xyxy clipped to the picture, labels int64 [n], crowd bool [n]."""
        rows = np.arange(self.starts[image], self.starts[image + 1])
        rows = rows[self.usable[rows]]
        height, width = self.sizes[image]
        return self.boxes[rows].clip(0, (width, height, width, height)), self.labels[rows], self.crowd[rows]

    def ground_truth(self) -> dict[str, Any]:
        """A plain COCO dict for pycocotools: ids and boxes of the file, annotations numbered from 1, ``area`` and ``iscrowd`` filled."""
        image_of = np.repeat(self.image_ids, np.diff(self.starts)).tolist()
        category_of = np.array(self.category_ids, dtype=np.int64)[self.labels].tolist()
        rows = zip(image_of, category_of, self.xywh.tolist(), self.area.tolist(), self.crowd.astype(int).tolist(), strict=True)
        return {
            "images": [
                {"id": image_id, "file_name": file_name, "height": size[0], "width": size[1]}
                for image_id, file_name, size in zip(self.image_ids.tolist(), self.file_names, self.sizes.tolist(), strict=True)
            ],
            "categories": [
                {"id": c.id, "name": c.name} | ({"supercategory": c.supercategory} if c.supercategory else {}) for c in self.categories
            ],
            "annotations": [
                {"id": number, "image_id": image_id, "category_id": category_id, "bbox": box, "area": area, "iscrowd": crowd}
                for number, (image_id, category_id, box, area, crowd) in enumerate(rows, start=1)
            ],
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content (pictures' ids, names and sizes, classes, objects) in order; not of folders or JSON formatting."""
        sha = hashlib.sha256()
        sha.update(repr([category[:2] for category in self.categories]).encode())
        sha.update("\0".join(self.file_names).encode("utf-8", "surrogateescape"))
        for array in (self.image_ids, self.sizes, self.starts, self.labels):
            sha.update(array.astype("<i8").tobytes())
        for array in (self.xywh, self.area):
            sha.update(array.astype("<f8").tobytes())
        sha.update(self.crowd.astype("u1").tobytes())
        return sha.hexdigest()

    def check_same_classes(self, other: CocoIndex) -> None:
        """A ``DataError`` that names the difference if ``other`` has not the same category ids and names."""
        mine, theirs = ({category[:2] for category in index.categories} for index in (self, other))
        if mine == theirs:
            return
        only = [
            f"only in {index.name}: " + ", ".join(f"{printable(name, 40)} (id {number})" for number, name in sorted(difference)[:5])
            for index, difference in ((self, mine - theirs), (other, theirs - mine))
            if difference
        ]
        where = f"{self.annotation_file} and {other.annotation_file}"
        raise DataError(f"the classes differ; {'; '.join(only)}", where=where, mend="give both files the same categories, ids and names")


def read_index(annotation_file: Path, image_dir: Path) -> CocoIndex:
    """Read and check a COCO detection file. All faults of the file are told at once as a ``DataError``; no picture is decoded.

    Pictures must exist; sizes that the file lacks are read from the pictures' headers.
    """
    annotation_file, image_dir = Path(annotation_file), Path(image_dir)
    found = Findings(str(annotation_file))
    file = read_coco(annotation_file)
    categories = category_table(file, found)
    image_ids, file_names, sizes = image_table(file.images, image_dir, found)
    objects = object_table(file.annotations, image_ids, sizes, categories, found)
    found.raise_faults()
    index = CocoIndex(
        _name(annotation_file),
        annotation_file,
        image_dir,
        tuple(categories),
        image_ids,
        file_names,
        sizes,
        **objects._asdict(),
        ledger=found.ledger,
    )
    _check_boxes(index)
    return index


def _name(annotation_file: Path) -> str:
    stem = annotation_file.stem.removeprefix("instances_")
    return annotation_file.parent.name if stem.startswith("_annotations") else stem


def _check_boxes(index: CocoIndex) -> None:
    """Faults of the boxes as a whole: other units, other formats, none left."""
    where, xywh = str(index.annotation_file), index.xywh
    if not len(xywh):
        raise DataError("there is not one annotation", where=where, mend="give the file of a split that has boxes")
    if (np.abs(xywh) <= 1).all():
        raise DataError("all box numbers are at most 1: these look normalised", where=where, mend="multiply them by width and height")
    limits = index.sizes[np.repeat(np.arange(len(index)), np.diff(index.starts))][:, ::-1]
    far = ((xywh[:, :2] + xywh[:, 2:]) > 1.1 * limits).any(1)
    if far.mean() > 0.2:
        corners = (xywh[:, 2:] >= xywh[:, :2]).mean() > 0.95
        if corners:
            mend = "bbox looks like x1, y1, x2, y2: COCO wants x, y, width, height"
        else:
            mend = "check that the boxes are pixels of these pictures, as x, y, width, height"
        if corners or far.sum() >= 10:
            raise DataError(f"{far.sum()} of {len(far)} boxes leave their picture by far", where=where, mend=mend)
    if not (index.usable & ~index.crowd).any():
        causes = "; ".join(index.ledger.lines()) or "all are crowds"
        raise DataError(f"not one box can be trained on ({causes})", where=where)
