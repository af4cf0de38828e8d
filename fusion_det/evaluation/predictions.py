"""The predictions file: COCO results (a JSON list of boxes in the original frame) plus the level and source that fired."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fusion_det.config.files import write_atomic
from fusion_det.config.json_text import parse_json
from fusion_det.errors import DataError, FusionDetError

if TYPE_CHECKING:
    from fusion_det.structures import Detections

BOX_DECIMALS = 3
"""With the digits of the score: AP moves by at most 0.002 points in 30 random sets of 30 images; with 2 and 5 digits by 0.05."""
SCORE_DECIMALS = 7
"""Enough to keep nearly all float32 scores apart; coarser rounding makes ties, and ties move AP."""
_LARGEST = 2.0**63
"""Of any number of a box, as in the ground truth."""
_AT_ONCE = 4096
"""Records whose columns are taken together: so many stay in a core's cache while each is looked at several times."""
REQUIRED_KEYS = ("image_id", "category_id", "bbox", "score")


@dataclass(frozen=True)
class DetectionArrays:
    """Detections of a whole data set as columns; N rows in the order of the results list."""

    image_ids: np.ndarray
    """int64 [N] COCO image ids."""
    category_ids: np.ndarray
    """int64 [N] COCO category ids (not class indices)."""
    boxes: np.ndarray
    """float64 [N, 4] ``xywh`` in pixels of the original frame."""
    scores: np.ndarray
    """float64 [N]."""

    def __len__(self) -> int:
        return len(self.image_ids)

    @classmethod
    def from_results(cls, results: Sequence[dict[str, Any]], *, where: str = "results") -> Self:
        """Columns of a COCO results list. Raises :class:`DataError` naming the first record that is not a finite detection."""
        columns = _plain_columns(results)
        if columns is None:
            for index, record in enumerate(results):
                if fault := _record_fault(record):
                    raise DataError(fault, where=f"{where}[{index}]", mend="a record is {image_id, category_id, bbox: [x, y, w, h], score}")
            columns = (
                np.array([int(record["image_id"]) for record in results], dtype=np.int64),
                np.array([int(record["category_id"]) for record in results], dtype=np.int64),
                np.array([float(number) for record in results for number in record["bbox"]], dtype=np.float64).reshape(-1, 4),
                np.array([float(record["score"]) for record in results], dtype=np.float64),
            )
        arrays = cls(*columns)
        arrays.check_numbers(where=where)
        return arrays

    def check_numbers(self, *, where: str = "results") -> None:
        """Raise :class:`DataError` for the first box or score that cannot be measured.

        That is a number that is not finite, a negative width or height, and a size whose area overflows or underflows: IoU would be NaN.
        """
        width, height = self.boxes[:, 2], self.boxes[:, 3]
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            flat = width * height == 0
        faults = {
            "box is not finite": ~np.isfinite(self.boxes).all(axis=1),
            "score is not finite": ~np.isfinite(self.scores),
            "box has a negative width or height": (width < 0) | (height < 0),
            "box is too large": (np.abs(self.boxes) >= _LARGEST).any(axis=1),
            "box is too small, but not empty": (width > 0) & (height > 0) & flat,
        }
        for what, wrong in faults.items():
            if wrong.any():
                index = int(wrong.argmax())
                detail = f"bbox {self.boxes[index].tolist()}, score {float(self.scores[index])}, {int(wrong.sum())} such of {len(self)}"
                raise DataError(
                    f"{what} ({detail})",
                    where=f"{where}[{index}] (image {self.image_ids[index]})",
                    mend="find out why the detector gave it; such a box would make the metric a made-up number",
                )


def to_coco_results(
    detections: Detections, image_ids: Sequence[int], category_ids: Sequence[int], level_names: Sequence[str | None]
) -> list[dict[str, Any]]:
    """Valid detections as COCO results, image by image in order of falling score.

    ``detections`` are in the original frame (see :meth:`Detections.to_original`), ``image_ids`` has one id for each of the B images,
    ``category_ids[label]`` and ``level_names[level]`` translate indices; a level named ``None`` is left out of the record. One copy from
    the device, whatever B and N.
    """
    import torch  # here, as files are read and measured without it

    if len(image_ids) != detections.boxes.shape[0]:
        raise ValueError(f"expected one image id for each of {detections.boxes.shape[0]} images, got {len(image_ids)}")
    columns = (detections.scores, detections.labels, detections.levels, detections.sources, detections.valid)
    # float32 holds indices exactly up to 2^24, so that everything travels in one [B, N, 9] tensor.
    dtype = torch.promote_types(detections.boxes.dtype, torch.float32)
    packed = torch.cat([detections.boxes.to(dtype), torch.stack([column.to(dtype) for column in columns], dim=-1)], dim=-1)
    rows = packed.detach().cpu().numpy().astype(np.float64)
    image_rows, detection_rows = np.nonzero(rows[..., 8])
    rows = rows[image_rows, detection_rows]
    corners = np.round(rows[:, :4], BOX_DECIMALS)
    # The size comes from rounded corners, so that x + w names the same right edge; adding 0.0 turns -0.0 into 0.0.
    boxes = np.concatenate([corners[:, :2], np.round(corners[:, 2:] - corners[:, :2], BOX_DECIMALS)], axis=1) + 0.0
    scores = np.round(rows[:, 4], SCORE_DECIMALS).tolist()
    labels, levels, sources = rows[:, 5:8].astype(np.int64).T.tolist()
    return [
        {"image_id": int(image_ids[image]), "category_id": int(category_ids[label]), "bbox": box, "score": score}
        | ({"level": level_names[level]} if level_names[level] is not None else {})
        | {"source": source}
        for image, box, score, label, level, source in zip(image_rows, boxes.tolist(), scores, labels, levels, sources, strict=True)
    ]


def write_predictions(path: str | Path, results: Sequence[dict[str, Any]]) -> None:
    """Write ``results`` as JSON, one record per line, whole or not at all.

    Raises :class:`DataError` for a record that is not a finite detection, :class:`FusionDetError` for a disk that refuses.
    """
    DetectionArrays.from_results(results, where=str(path))
    lines = ",\n".join(json.dumps(record, allow_nan=False) for record in results)
    try:
        write_atomic(path, f"[\n{lines}\n]\n".encode() if results else b"[]\n")
    except OSError as error:
        raise FusionDetError(f"cannot write the predictions: {error.strerror or error}", where=str(path), mend="free some space") from error


def read_predictions(path: str | Path) -> list[dict[str, Any]]:
    """The records of a predictions file of ours or of any other framework's COCO results file.

    Raises :class:`DataError` for a file that is missing, empty, cut short, or not a list of finite detections, naming the record.
    """
    results = _read_list(path)
    DetectionArrays.from_results(results, where=str(path))
    return results


def read_detections(path: str | Path) -> DetectionArrays:
    """The columns of such a file; the rest of its records is dropped. Raises as :func:`read_predictions` does."""
    return DetectionArrays.from_results(_read_list(path), where=str(path))


def _read_list(path: str | Path) -> list[dict[str, Any]]:
    where = str(path)
    mend = "write the predictions again with tools/evaluate.py"
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the predictions: {error.strerror}", where=where, mend=mend) from error
    if not raw.strip():
        raise DataError("the predictions file is empty", where=where, mend=mend)
    try:
        results = parse_json(raw)
    except UnicodeDecodeError as error:
        raise DataError("cannot read the predictions: not UTF-8 text", where=where, mend=mend) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"not whole JSON, perhaps cut short: {error}", where=where, mend=mend) from error
    if not isinstance(results, list):
        mend = "give a COCO results file, not a ground-truth file" if isinstance(results, dict) else mend
        raise DataError(f"expected a list of detections, got {type(results).__name__}", where=where, mend=mend)
    return results


def _plain_columns(results: Sequence[dict[str, Any]]) -> tuple[np.ndarray, ...] | None:
    """Images, categories, boxes and scores; ``None`` where a record is not plain enough to be checked as part of a column."""
    pieces = []
    for start in range(0, max(len(results), 1), _AT_ONCE):
        piece = _plain_piece(results[start : start + _AT_ONCE])
        if piece is None:
            return None
        pieces.append(piece)
    return tuple(np.concatenate(columns) for columns in zip(*pieces, strict=True))


def _plain_piece(results: Sequence[dict[str, Any]]) -> tuple[np.ndarray, ...] | None:
    try:
        images, categories, boxes, scores = ([record[key] for record in results] for key in REQUIRED_KEYS)
        numbers = list(chain.from_iterable(boxes))
        integers = {*map(type, images), *map(type, categories)} <= {int} and {*map(type, numbers), *map(type, scores)} <= {int, float}
        if not integers or not set(map(len, boxes)) <= {4}:
            return None
        ids = np.array(images, dtype=np.int64), np.array(categories, dtype=np.int64)
        measures = np.array(numbers, dtype=np.float64).reshape(-1, 4), np.array(scores, dtype=np.float64)
    except (KeyError, TypeError, IndexError, OverflowError):
        return None
    return (*ids, *measures) if all((np.abs(column) < _LARGEST).all() for column in measures) else None


def _record_fault(record: Any) -> str | None:
    """What is wrong with the shape of one record, or ``None``; numbers are judged by :meth:`DetectionArrays.check_numbers`."""
    if not isinstance(record, dict):
        return f"expected an object, got {type(record).__name__}"
    for key in REQUIRED_KEYS:
        if key not in record:
            return f"the key '{key}' is missing"
    for key in ("image_id", "category_id"):
        if not _is_integer(record[key]):
            return f"'{key}' is not an integer: {record[key]!r}"
    box = record["bbox"]
    if not isinstance(box, list | tuple | np.ndarray) or len(box) != 4 or not all(map(_is_number, box)):
        return f"'bbox' is not four numbers: {box!r}"
    return None if _is_number(record["score"]) else f"'score' is not a number: {record['score']!r}"


def _is_number(value: Any) -> bool:
    """True for anything that fits a column; JSON allows integers of any length."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return False
    return not isinstance(value, int) or abs(value) < 2**63


def _is_integer(value: Any) -> bool:
    """True for 7 and for the 7.0 that some exporters write."""
    return _is_number(value) and math.isfinite(value) and int(value) == value and abs(value) < 2**63
