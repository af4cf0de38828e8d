"""The tables of a COCO file: classes, pictures and objects as arrays, checked against each other."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fusion_det.data import coco_records
from fusion_det.data.coco_file import CocoFile, Record
from fusion_det.data.image_files import check_names, locate
from fusion_det.data.images import read_size
from fusion_det.data.ledger import Findings
from fusion_det.errors import FusionDetError


class Category(NamedTuple):
    """A class as the file knows it; its contiguous class index is its rank by ``id``."""

    id: int
    name: str
    supercategory: str = ""
    """The group that the file gives it, for reports; two classes are the same by id and name."""


class ObjectTable(NamedTuple):
    """The columns of the objects as :class:`~fusion_det.data.coco_index.CocoIndex` holds them."""

    starts: np.ndarray
    xywh: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    area: np.ndarray
    usable: np.ndarray


def category_table(file: CocoFile, found: Findings) -> list[Category]:
    """The classes by rising id, without the unused umbrella class that Roboflow puts first."""
    records = file.categories
    name = coco_records.namer("categories", records)
    ids = coco_records.whole_numbers(records, "id", name, found)
    found.fault("category id given twice", _repeats(ids.tolist()), name)
    nameless = [row for row, record in enumerate(records) if not isinstance(record.get("name"), str) or not record["name"].strip()]
    found.fault("category without a name", nameless, name)
    if found.faults:  # then no annotation can be told to be of an unknown class
        return []
    used = {record.get("category_id") for record in file.annotations if type(record.get("category_id")) in (int, float)}
    umbrella = [row for row in range(len(records)) if int(ids[row]) not in used and _is_umbrella(row, records)]
    found.note("unused umbrella category left out of the classes", umbrella, lambda row: records[row]["name"])
    kept = sorted(Category(int(ids[row]), records[row]["name"], _group(records[row])) for row in range(len(records)) if row not in umbrella)
    found.note(
        "category name given twice", _repeats(category.name for category in kept), lambda rank: f"{kept[rank].name} (id {kept[rank].id})"
    )
    return kept


def _group(record: Record) -> str:
    group = record.get("supercategory")
    return group if isinstance(group, str) else ""


def _is_umbrella(row: int, records: list[Record]) -> bool:
    """Whether a category is only the ``supercategory`` of all the others."""
    name, others = records[row]["name"], [record for i, record in enumerate(records) if i != row]
    return records[row].get("supercategory") != name and bool(others) and all(other.get("supercategory") == name for other in others)


def image_table(records: list[Record], image_dir: Path, found: Findings) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Ids int64 [N], file names as spelt on disk, sizes int64 [N, 2] (height, width)."""
    name = coco_records.namer("images", records)
    ids = coco_records.whole_numbers(records, "id", name, found)
    found.fault("image id given twice", _repeats(ids.tolist()), name)
    file_names: list[Any] = [record.get("file_name") for record in records]
    before = len(found.faults)
    check_names(file_names, found)
    on_disk = len(found.faults) == before
    if on_disk:
        file_names = locate(image_dir, file_names, found)
        on_disk = len(found.faults) == before
        found.note("file_name given twice", _repeats(file_names), lambda row: str(file_names[row]))
    unsized = [row for row, record in enumerate(records) if record.get("width") is None or record.get("height") is None]
    if unsized:
        records = _sized(records, unsized, image_dir if on_disk else None, file_names, found)
    sizes = np.stack([coco_records.whole_numbers(records, key, name, found) for key in ("height", "width")], axis=1)
    found.fault("width or height is not positive", np.flatnonzero((sizes < 1).any(1) & (sizes != coco_records.BAD).all(1)), name)
    return ids, [str(file_name) for file_name in file_names], sizes


def _sized(records: list[Record], unsized: list[int], image_dir: Path | None, file_names: list[str], found: Findings) -> list[Record]:
    """The records with the sizes of the ``unsized`` rows taken from the pictures' headers (1 x 1 where a fault was found)."""
    records = list(records)
    for row in unsized:
        height, width = 1, 1
        try:
            if image_dir is not None:
                height, width = read_size(image_dir / file_names[row])
        except FusionDetError as error:
            found.faults.append(error)
        records[row] = {**records[row], "height": height, "width": width}
    found.note("width and height missing, read from the picture", unsized, lambda row: str(file_names[row]))
    return records


def object_table(
    records: list[Record], image_ids: np.ndarray, sizes: np.ndarray, categories: list[Category], found: Findings
) -> ObjectTable:
    """The objects grouped by picture, in the order of the file within each; objects of unknown pictures are dropped and counted."""
    name = coco_records.namer("annotations", records)
    image_of = coco_records.whole_numbers(records, "image_id", name, found)
    category_of = coco_records.whole_numbers(records, "category_id", name, found)
    xywh = coco_records.boxes(records, name, found)
    crowd = coco_records.crowds(records, name, found)
    area = coco_records.areas(records, xywh, name, found)
    _note_ids(records, found)
    rows, known_image = _look_up(image_of, image_ids)
    labels, known_category = _look_up(category_of, np.array([category.id for category in categories], dtype=np.int64))
    _fault_unknown_categories(category_of[~known_category & (category_of != coco_records.BAD)], bool(categories), found)
    found.note(
        "annotations of pictures that are not in the file, dropped", np.flatnonzero(~known_image & (image_of != coco_records.BAD)), name
    )
    order = np.flatnonzero(known_image)
    order = order[np.argsort(rows[order], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows[order], minlength=len(image_ids)))]).astype(np.int64)
    usable = _usable(xywh[order], sizes[rows[order]], lambda row: name(int(order[row])), found)
    return ObjectTable(starts, xywh[order], labels[order], crowd[order], area[order], usable)


def _note_ids(records: list[Record], found: Findings) -> None:
    """Annotation ids matter to nobody here, but pycocotools loses objects by duplicate ids and by id 0: say that they were renumbered."""
    texts = [repr(record.get("id")) for record in records]
    rows = sorted({row for row, text in enumerate(texts) if text in ("None", "0")}.union(_repeats(texts)))
    found.note("annotation ids missing, 0 or given twice, renumbered", rows, coco_records.namer("annotations", records))


def _repeats(values: Iterable[Hashable]) -> list[int]:
    """Rows whose value was there before in an earlier row (refused numbers left out)."""
    seen: set[Hashable] = {coco_records.BAD}
    rows = []
    for row, value in enumerate(values):
        if value in seen and value != coco_records.BAD:
            rows.append(row)
        seen.add(value)
    return rows


def _look_up(values: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position of each value in ``ids`` (0 if it is not there), and whether it is there."""
    if not len(ids):
        return np.zeros(len(values), dtype=np.int64), np.zeros(len(values), dtype=bool)
    order = np.argsort(ids, kind="stable")
    at = order[np.searchsorted(ids[order], values).clip(max=len(ids) - 1)]
    known = ids[at] == values
    return np.where(known, at, 0), known


def _fault_unknown_categories(values: np.ndarray, any_known: bool, found: Findings) -> None:
    if len(values) and any_known:
        ids, counts = np.unique(values, return_counts=True)
        named = [f"{number} ({count} x)" for number, count in zip(ids.tolist(), counts.tolist(), strict=True)]
        found.fault(
            "category_id is not among the categories", range(len(named)), lambda row: named[row], "add the category or mend the ids"
        )


def _usable(xywh: np.ndarray, sizes: np.ndarray, name: coco_records.Namer, found: Findings) -> np.ndarray:
    """bool [M]: at least 1 x 1 pixel inside the picture; what is not is counted by cause."""
    limits = sizes[:, ::-1].astype(np.float64)
    low, high = xywh[:, :2], xywh[:, :2] + xywh[:, 2:]
    inside = high.clip(0, limits) - low.clip(0, limits)
    flat = (xywh[:, 2:] <= 0).any(1)
    outside = ~flat & (inside <= 0).any(1)
    small = ~flat & ~outside & (inside < 1).any(1)
    clipped = ~flat & ~outside & ~small & ((low < -0.5) | (high > limits + 0.5)).any(1)
    causes = {
        "boxes without width or height, not trained on": flat,
        "boxes outside their picture, not trained on": outside,
        "boxes under 1 pixel, not trained on": small,
        "boxes that leave their picture, clipped for training": clipped,
    }
    for cause, mask in causes.items():
        found.note(cause, np.flatnonzero(mask), name)
    return ~(flat | outside | small)
