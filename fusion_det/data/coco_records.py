"""Columns of COCO records as arrays: each value checked, what can be mended is mended and counted, the rest is a fault.

A column is read at once when all its values have the type they should have (the usual case, fast for millions of records) and
record by record only otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from fusion_det.data.coco_file import Record
from fusion_det.data.ledger import Findings, printable

BAD = np.iinfo(np.int64).min
"""Stands for a whole number that was refused; such rows are left out of later checks."""

Namer = Callable[[int], str]


def namer(kind: str, records: Sequence[Record]) -> Namer:
    """Names a record by its place in the file and its id: ``annotations[12] (id 345)``."""

    def name(row: int) -> str:
        identity = records[row].get("id")
        return f"{kind}[{row}]" if identity is None else f"{kind}[{row}] (id {printable(identity, 40)})"

    return name


def whole_numbers(records: Sequence[Record], key: str, name: Namer, found: Findings) -> np.ndarray:
    """int64 [N] of ``record[key]``; whole floats are taken and counted, anything else is a fault and reads ``BAD``."""
    values = [record.get(key) for record in records]
    if set(map(type, values)) <= {int}:
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            pass
    numbers = [_whole(value) for value in values]
    bad = [row for row, number in enumerate(numbers) if number is None]
    floats = [row for row, value in enumerate(values) if isinstance(value, float) and numbers[row] is not None]
    mend = "write it as a JSON number, not as a string" if any(isinstance(values[row], str) for row in bad) else ""
    found.fault(f"{key} is not a whole number", bad, lambda row: f"{name(row)} has {printable(repr(values[row]), 40)}", mend)
    found.note(f"{key} stored as a whole float", floats, name)
    return np.array([BAD if number is None else number for number in numbers], dtype=np.int64)


def _whole(value: Any) -> int | None:
    if type(value) is int:
        return value if BAD < value <= -(BAD + 1) else None
    if type(value) is float and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return None


def boxes(records: Sequence[Record], name: Namer, found: Findings) -> np.ndarray:
    """float64 [M, 4] xywh as in the file; a missing box is taken from the polygons, other faults read 0."""
    raw: list[Any] = [record.get("bbox") for record in records]
    if set(map(type, raw)) <= {list} and {len(box) for box in raw} <= {4} and set(map(type, chain.from_iterable(raw))) <= {int, float}:
        try:
            array = np.array(raw, dtype=np.float64).reshape(-1, 4)
        except OverflowError:
            array = _boxes_one_by_one(records, name, found)
    else:
        array = _boxes_one_by_one(records, name, found)
    found.fault("bbox is not finite (NaN or infinite)", np.flatnonzero(~np.isfinite(array).all(1)), name)
    return array


def _boxes_one_by_one(records: Sequence[Record], name: Namer, found: Findings) -> np.ndarray:
    array = np.zeros((len(records), 4))
    reasons: dict[str, list[int]] = {}
    from_polygon = []
    for row, record in enumerate(records):
        box, reason = _box_fault(record)
        if reason:
            reasons.setdefault(reason, []).append(row)
        else:
            array[row] = box
            if not record.get("bbox"):
                from_polygon.append(row)
    for reason, rows in reasons.items():
        found.fault(reason, rows, name, "bbox is [x, y, width, height] in pixels")
    found.note("boxes taken from the polygon, bbox missing", from_polygon, name)
    return array


def _box_fault(record: Record) -> tuple[list[float], str]:
    """The box of one record as xywh floats, or why there is none."""
    box = record.get("bbox")
    if box is None or box == []:
        return _polygon_box(record.get("segmentation"))
    if not isinstance(box, list):
        return [], f"bbox is a {type(box).__name__} instead of 4 numbers"
    if len(box) != 4:
        rotated = ": rotated boxes are not supported" if len(box) == 5 else ""
        return [], f"bbox has {len(box)} entries instead of 4{rotated}"
    if any(type(value) not in (int, float) for value in box):
        return [], "bbox holds something that is not a number"
    return [_to_float(value) for value in box], ""


def _to_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number beyond float64
        return float("inf")


def _polygon_box(polygons: Any) -> tuple[list[float], str]:
    if not isinstance(polygons, list) or not polygons:
        return [], "bbox is missing and there is no polygon to take it from"
    if any(not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        return [], "bbox is missing and the polygon is not a list of x, y pairs"
    values = list(chain.from_iterable(polygons))
    if any(type(value) not in (int, float) for value in values):
        return [], "bbox is missing and the polygon holds something that is not a number"
    points = np.array([_to_float(value) for value in values]).reshape(-1, 2)
    (left, top), (right, bottom) = points.min(0), points.max(0)
    return [left, top, right - left, bottom - top], ""


def areas(records: Sequence[Record], xywh: np.ndarray, name: Namer, found: Findings) -> np.ndarray:
    """float64 [M]; missing or impossible areas become width times height, counted."""
    values: list[Any] = [record.get("area") for record in records]
    array = np.array([_to_float(value) if type(value) in (int, float) else np.nan for value in values], dtype=np.float64)
    fill = np.flatnonzero(~np.isfinite(array) | (array < 0))
    array[fill] = xywh[fill, 2].clip(min=0) * xywh[fill, 3].clip(min=0)
    found.note("area missing or impossible, taken as width x height", fill, name)
    return array


def crowds(records: Sequence[Record], name: Namer, found: Findings) -> np.ndarray:
    """bool [M]; a missing ``iscrowd`` reads 0, counted; anything but 0 and 1 is a fault."""
    values = [record.get("iscrowd") for record in records]
    if all(type(value) is int and 0 <= value <= 1 for value in values):
        return np.array(values, dtype=bool)
    missing = [row for row, value in enumerate(values) if value is None]
    known = [isinstance(value, bool | int | float) and value in (0, 1) for value in values]
    bad = [row for row, value in enumerate(values) if value is not None and not known[row]]
    found.fault("iscrowd is neither 0 nor 1", bad, lambda row: f"{name(row)} has {printable(repr(values[row]), 40)}")
    found.note("iscrowd missing, taken as 0", missing, name)
    return np.array([bool(value) if ok else False for value, ok in zip(values, known, strict=True)], dtype=bool)
