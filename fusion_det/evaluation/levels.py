"""Which pyramid level finds objects of which size, and how good each level is alone. NumPy only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from fusion_det.evaluation.array_metrics import match_checked
from fusion_det.evaluation.box_metrics import Number, printable
from fusion_det.evaluation.error_types import CORRECT, ERROR_TYPES, ErrorTable
from fusion_det.evaluation.predictions import DetectionArrays
from fusion_det.evaluation.truth_arrays import TruthArrays

SIZES = ("small", "medium", "large")
_SIZE_LIMITS = (32**2, 96**2)
"""Areas in square pixels. COCO counts a box of exactly such an area on both sides; here it is of the larger size only."""
ALONE = ("AP", "AP50", "APs", "APm", "APl")
NO_LEVELS = "the detections do not tell which level they came from"


@dataclass(frozen=True, eq=False)
class LevelTable:
    """L levels, fine to coarse, against the three :data:`SIZES`."""

    levels: tuple[str, ...]
    iou_threshold: float
    detections: np.ndarray
    """int64 [L, 3] detections, by the size of the detected box."""
    found: np.ndarray
    """int64 [L, 3] boxes that a detection of the level matched, by the size of the box (area of the annotation)."""
    boxes: np.ndarray
    """int64 [3] boxes in all."""
    kinds: np.ndarray
    """int64 [L, 6]: correct detections, then those of the first five error types; ignored ones are left out."""
    alone: tuple[dict[str, Number], ...]
    """For each level :data:`ALONE` of its detections, with those of all other levels left out."""

    def as_dict(self) -> dict[str, Any]:
        """Plain containers for a JSON file; ``recall`` is the part of all boxes of a size that the level found."""
        by_level = {}
        for i, name in enumerate(self.levels):
            recall = [int(n) / int(total) if total else None for n, total in zip(self.found[i], self.boxes, strict=True)]
            by_level[name] = {
                "detections": dict(zip(SIZES, self.detections[i].tolist(), strict=True)),
                "found": dict(zip(SIZES, self.found[i].tolist(), strict=True)),
                "recall": dict(zip(SIZES, recall, strict=True)),
                "kinds": dict(zip(("correct", *ERROR_TYPES[:5]), self.kinds[i].tolist(), strict=True)),
                "alone": dict(self.alone[i]),
            }
        return {"iou_threshold": self.iou_threshold, "boxes": dict(zip(SIZES, self.boxes.tolist(), strict=True)), "levels": by_level}

    def table(self) -> str:
        """Detections, boxes found by size with the share of all boxes of that size, and AP of each level alone, times 100."""
        width = max(map(len, ["not found", *map(printable, self.levels)]))
        header = [f"{'level':<{width}}  detections  right %", *(f"{size:>15}" for size in SIZES), *(f"{name:>5}" for name in ALONE)]
        lines = [
            f"boxes found at IoU {self.iou_threshold:g} by level and size (share of the boxes of that size); AP x 100 of each level alone",
            "  ".join(header),
        ]
        for i, name in enumerate(self.levels):
            total = int(self.detections[i].sum())
            right = f"{100 * self.kinds[i, 0] / total:.1f}" if total else "-"
            cells = [f"{printable(name):<{width}}  {total:>10}  {right:>7}", *self._cells(self.found[i])]
            lines.append("  ".join([*cells, *("    -" if v is None else f"{100 * v:5.1f}" for v in self.alone[i].values())]))
        lines.append("  ".join([f"{'not found':<{width}}  {'':>10}  {'':>7}", *self._cells(self.boxes - self.found.sum(axis=0))]))
        return "\n".join(lines)

    def _cells(self, numbers: np.ndarray) -> list[str]:
        shares = [f"({100 * n / total:.1f} %)" if total else "(-)" for n, total in zip(numbers, self.boxes, strict=True)]
        return [f"{f'{n} {share}':>15}" for n, share in zip(numbers, shares, strict=True)]


def level_table(
    errors: ErrorTable,
    truth: TruthArrays,
    detections: DetectionArrays,
    levels: Sequence[str | None],
    *,
    order: Sequence[str] = (),
    max_detections: int = 100,
) -> LevelTable | str:
    """The table for ``detections`` whose ``levels`` are known by name, one for each row; ``errors`` are those of the same input.

    Rows come in the ``order`` of the given names, then the others by number (P3, P4, ..., P10); detections without a level are the row
    ``unknown``. If none has a level the result is the reason that there is no table. ``max_detections`` per image and class is for the
    AP of a level alone: what that level would reach, if the others were silent and suppression had left the same boxes. It is not what
    a detector with only that level would reach.
    """
    if len(levels) != len(detections):
        raise ValueError(f"levels: expected one for each of {len(detections)} detections, got {len(levels)}")
    if all(name is None for name in levels):
        return NO_LEVELS
    names = _ordered({name for name in levels if name is not None}, order) + (["unknown"] if None in levels else [])
    position = {name: i for i, name in enumerate(names)}
    level = np.array([position["unknown" if name is None else name] for name in levels], np.int64)
    kept = level[errors.overlaps.row]

    right = errors.kind == CORRECT
    found_boxes = errors.target[right]
    area = detections.boxes[errors.overlaps.row, 2] * detections.boxes[errors.overlaps.row, 3]
    return LevelTable(
        levels=tuple(names),
        iou_threshold=errors.foreground_iou,
        detections=_counts(kept, _size(area), (len(names), 3)),
        found=_counts(kept[right], _size(errors.overlaps.box_area[found_boxes]), (len(names), 3)),
        boxes=np.bincount(_size(errors.overlaps.box_area), minlength=3),
        kinds=_counts(kept[~errors.ignored], errors.kind[~errors.ignored] + 1, (len(names), 6)),
        alone=tuple(_alone(truth, detections, level == i, max_detections) for i in range(len(names))),
    )


def found_by_size(errors: ErrorTable) -> dict[str, dict[str, int]]:
    """Boxes of each size: how many there are, were found, are covered by a classification or localisation error, or were missed."""
    table = _counts(errors.box_state.astype(np.int64), _size(errors.overlaps.box_area), (3, 3))
    states = ("found", "covered", "missed")
    return {size: {"boxes": int(table[:, i].sum())} | dict(zip(states, table[:, i].tolist(), strict=True)) for i, size in enumerate(SIZES)}


def level_names(results: Sequence[dict[str, Any]]) -> tuple[str | None, ...]:
    """The level of each record of a predictions file by name, ``None`` where it has none, as in most files of other frameworks."""
    return tuple(level if isinstance(level := record.get("level"), str) else None for record in results)


def _alone(truth: TruthArrays, detections: DetectionArrays, chosen: np.ndarray, max_detections: int) -> dict[str, Number]:
    columns = {field.name: getattr(detections, field.name) for field in fields(detections)}
    subset = DetectionArrays(**{name: values[chosen] for name, values in columns.items()})
    summary = match_checked(truth, subset, max_detections=max_detections).summary()
    return {name: summary[name] for name in ALONE}


def _counts(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """int64 ``shape``: how often each pair of indices occurs."""
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)


def _size(area: np.ndarray) -> np.ndarray:
    """0, 1 or 2 for small, medium or large."""
    return np.digitize(area, _SIZE_LIMITS)


def _ordered(names: set[str], order: Sequence[str]) -> list[str]:
    """``names`` in the given order, then the others with numbers compared as numbers."""
    first = [name for name in dict.fromkeys(order) if name in names]
    parts = {name: [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)] for name in names}
    return first + sorted(names - set(first), key=parts.__getitem__)
