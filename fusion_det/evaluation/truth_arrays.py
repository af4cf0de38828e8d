"""The ground truth of an evaluation as columns, checked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Self

import numpy as np

from fusion_det.evaluation.ground_truth import Truth, checked_truth

_TOO_LARGE = 2.0**63


@dataclass(frozen=True, eq=False)
class TruthArrays:
    """I images, K categories and G boxes; each group in the order of the ground truth."""

    image_ids: np.ndarray
    """int64 [I]."""
    category_ids: np.ndarray
    """int64 [K]."""
    category_names: tuple[str, ...]
    """K names; not necessarily different from each other."""
    supercategories: tuple[str | None, ...]
    """K names."""
    box_images: np.ndarray
    """int64 [G], image ids."""
    box_categories: np.ndarray
    """int64 [G], category ids."""
    boxes: np.ndarray
    """float64 [G, 4] ``xywh`` in pixels of the original frame."""
    areas: np.ndarray
    """float64 [G] as annotated (of the mask, where there are masks), else width x height."""
    crowd: np.ndarray
    """bool [G]."""

    @classmethod
    def of(cls, ground_truth: dict[str, Any], warnings: list[str]) -> Self:
        """Columns of a COCO dict; repairs are appended to ``warnings``. Raises :class:`DataError` as :func:`checked_truth` does."""
        heads = {**ground_truth, "annotations": []} if isinstance(ground_truth.get("annotations"), list) else ground_truth
        truth = checked_truth(heads, warnings)
        image_ids, category_ids = (np.array([r["id"] for r in truth[key]], dtype=np.int64) for key in ("images", "categories"))
        annotations = ground_truth["annotations"]
        columns = _quick_columns(annotations)
        if columns is None or not np.isin(columns[0], image_ids).all() or not np.isin(columns[1], category_ids).all():
            columns = _quick_columns(checked_truth(ground_truth, warnings)["annotations"])  # names the fault, or mends it
        assert columns is not None  # what is checked is regular
        return cls(
            image_ids,
            category_ids,
            tuple(category["name"] for category in truth["categories"]),
            tuple(category["supercategory"] for category in truth["categories"]),
            *columns,
        )

    @cached_property
    def unique_names(self) -> tuple[str, ...]:
        """A name for each category; one that several categories share is followed by the id."""
        uses = Counter(self.category_names)
        pairs = zip(self.category_names, self.category_ids.tolist(), strict=True)
        return tuple(name if uses[name] == 1 else f"{name} ({number})" for name, number in pairs)

    def as_coco(self) -> Truth:
        """A COCO dict with only what box evaluation needs; annotations are numbered from 1."""
        names = zip(self.category_ids.tolist(), self.category_names, self.supercategories, strict=True)
        columns = (self.box_images, self.box_categories, self.boxes, self.areas, self.crowd.astype(int))
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return {
            "images": [{"id": number} for number in self.image_ids.tolist()],
            "categories": [{"id": number, "name": name, "supercategory": group} for number, name, group in names],
            "annotations": [
                {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd}
                for number, (image, category, box, area, crowd) in enumerate(rows, start=1)
            ],
        }


def _quick_columns(annotations: list[dict[str, Any]]) -> tuple[np.ndarray, ...] | None:
    """Images, categories, boxes, areas and crowds; ``None`` where a record is not plain enough to be checked as part of a column."""
    try:
        images, categories, boxes, areas = ([a[key] for a in annotations] for key in ("image_id", "category_id", "bbox", "area"))
        crowd = [a.get("iscrowd", 0) for a in annotations]
        flat = list(chain.from_iterable(boxes))
        regular = (
            {*map(type, images), *map(type, categories), *map(type, crowd)} <= {int}
            and {*map(type, flat), *map(type, areas)} <= {int, float}
            and set(map(len, boxes)) <= {4}
        )
        if not regular:
            return None
        numbers = np.array(flat, dtype=np.float64).reshape(-1, 4), np.array(areas, dtype=np.float64)
        ids = np.array(images, dtype=np.int64), np.array(categories, dtype=np.int64)
    except (KeyError, TypeError, AttributeError, OverflowError):
        return None
    if (numbers[0][:, 2:] < 0).any() or not all((np.abs(column) < _TOO_LARGE).all() for column in numbers):
        return None
    return (*ids, *numbers, np.array(crowd, dtype=np.int64) != 0)
