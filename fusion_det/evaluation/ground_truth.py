"""Guards between a COCO ground-truth dict and pycocotools, which turns bad input into a number instead of an error.

Measured with pycocotools 2.0.11: a NaN box or score gives AP 1.0, an annotation id of 0 or a repeated one gives AP 0.0, an unknown
category is left out silently, and a missing ``area`` is a bare KeyError.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fusion_det.errors import DataError
from fusion_det.evaluation.predictions import DetectionArrays

Truth = dict[str, list[dict[str, Any]]]
_MEND = "run tools/validate.py on the annotation file"


def checked_truth(ground_truth: dict[str, Any], warnings: list[str]) -> Truth:
    """A private copy of ``ground_truth`` with only what box evaluation needs and annotation ids 1..N; the input stays as it is.

    Repairs are appended to ``warnings`` with their number. Raises :class:`DataError` for what cannot be repaired.
    """
    if missing := [key for key in ("images", "annotations", "categories") if not isinstance(ground_truth.get(key), list)]:
        raise DataError(
            f"no list under {missing}", where="ground truth", mend="expected a COCO dict with images, annotations and categories"
        )
    image_ids = _unique_ids(ground_truth["images"], "image")
    category_ids = _unique_ids(ground_truth["categories"], "category")
    annotations = ground_truth["annotations"]
    _refuse_unknown("annotations", "image", [a.get("image_id") for a in annotations], image_ids)
    _refuse_unknown("annotations", "category", [a.get("category_id") for a in annotations], category_ids)
    without_area = sum(a.get("area") is None for a in annotations)
    if without_area:
        warnings.append(f"{without_area} of {len(annotations)} annotations have no area; width x height is used")
    return {
        "images": [{"id": image_id} for image_id in image_ids],
        "categories": [{"id": c["id"], "name": _name(c), "supercategory": c.get("supercategory")} for c in ground_truth["categories"]],
        "annotations": [_checked_annotation(annotation, number) for number, annotation in enumerate(annotations, start=1)],
    }


def refuse_unknown_detections(detections: DetectionArrays, truth: Truth) -> None:
    """Raise :class:`DataError` if a detection names an image or a category that the ground truth does not have."""
    image_ids, category_ids = (np.array([record["id"] for record in truth[key]], dtype=np.int64) for key in ("images", "categories"))
    refuse_unknown_ids(detections, image_ids, category_ids)


def refuse_unknown_ids(detections: DetectionArrays, image_ids: np.ndarray, category_ids: np.ndarray) -> None:
    """The same for known ids as arrays."""
    for kind, used, known in (("image", detections.image_ids, image_ids), ("category", detections.category_ids, category_ids)):
        outside = ~np.isin(used, known)
        if outside.any():
            _refuse_unknown("detections", kind, used[outside].tolist(), known.tolist(), total=len(used))


def _checked_annotation(annotation: dict[str, Any], number: int) -> dict[str, Any]:
    """What pycocotools reads of one annotation; ``number`` is its new id."""
    box, area = annotation.get("bbox"), annotation.get("area")
    where = f"ground truth annotation {annotation.get('id', f'number {number}')} (image {annotation['image_id']})"
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(_is_finite(value) for value in box):
        raise DataError(f"bbox is not four finite numbers: {box!r}", where=where, mend=_MEND)
    if box[2] < 0 or box[3] < 0:
        raise DataError(f"bbox has a negative width or height: {box}", where=where, mend=_MEND)
    if area is not None and not _is_finite(area):
        raise DataError(f"area is not a finite number: {area!r}", where=where, mend=_MEND)
    return {
        "id": number,
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "bbox": [float(value) for value in box],
        "area": float(box[2] * box[3] if area is None else area),
        "iscrowd": int(bool(annotation.get("iscrowd", 0))),
    }


def _unique_ids(records: Sequence[dict[str, Any]], kind: str) -> list[int]:
    ids = [record.get("id") for record in records]
    if wrong := [value for value in ids if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63]:
        raise DataError(f"{len(wrong)} {kind} ids are not integers: {_first(wrong)}", where="ground truth", mend=_MEND)
    if repeated := [value for value, count in Counter(ids).items() if count > 1]:
        raise DataError(f"{len(repeated)} {kind} ids occur more than once: {_first(repeated)}", where="ground truth", mend=_MEND)
    return ids  # type: ignore[return-value]


def _refuse_unknown(owner: str, kind: str, used: Sequence[Any], known: Iterable[int], *, total: int | None = None) -> None:
    known = set(known)
    unknown = [value for value in used if not isinstance(value, int) or value not in known]
    if unknown:
        raise DataError(
            f"{len(unknown)} of {total or len(used)} {owner} have an unknown {kind} id: {_first(unknown)}",
            where="ground truth" if owner == "annotations" else "results",
            mend=f"evaluate against the data set that the {owner} belong to" if owner == "detections" else _MEND,
        )


def _first(values: Iterable[Any], limit: int = 5) -> str:
    texts = list(dict.fromkeys(repr(value) for value in values))
    return ", ".join(texts[:limit]) + (", ..." if len(texts) > limit else "")


def _name(category: dict[str, Any]) -> str:
    return str(category.get("name", category["id"]))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63 and math.isfinite(value)
