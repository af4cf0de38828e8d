"""COCO box matches straight from arrays: the fast twin of pycocotools."""

from __future__ import annotations

from typing import Any

import numpy as np

from fusion_det.evaluation.box_matching import AREA_BITS, Boxes, TruthBoxes, match_boxes, position_in_run
from fusion_det.evaluation.ground_truth import refuse_unknown_ids
from fusion_det.evaluation.match_table import MatchTable
from fusion_det.evaluation.predictions import DetectionArrays
from fusion_det.evaluation.truth_arrays import TruthArrays

_RADIX_LIMIT = 1 << 16
"""NumPy sorts integers of 16 bits by radix."""


def match(ground_truth: dict[str, Any], detections: DetectionArrays, *, max_detections: int = 100) -> MatchTable:
    """The matches of ``detections`` with ``ground_truth`` (a COCO dict, ``xywh`` boxes in the original frame), and so its AP and AR.

    ``max_detections`` per image and class replaces COCO's 100. Neither input is changed. Raises :class:`DataError` for numbers that are
    not finite, negative sizes, and ids that are unknown or repeated.
    """
    if max_detections < 1:
        raise ValueError(f"max_detections: expected at least 1, got {max_detections}")
    detections.check_numbers()
    truth = TruthArrays.of(ground_truth, [])
    refuse_unknown_ids(detections, truth.image_ids, truth.category_ids)
    return match_checked(truth, detections, max_detections=max_detections)


def match_checked(truth: TruthArrays, detections: DetectionArrays, *, max_detections: int) -> MatchTable:
    """:func:`match` for detections that were found to fit the ground truth."""
    image_ids, by_id = np.sort(truth.image_ids), np.argsort(truth.category_ids)
    category_ids = truth.category_ids[by_id]
    truth_image, truth_class, boxes = _truth_boxes(truth, image_ids, category_ids)
    image, label = _indices(image_ids, detections.image_ids), _indices(category_ids, detections.category_ids)
    row, rank = _in_order(image, label, detections.scores)
    if (rank >= max_detections).any():
        kept = rank < max_detections
        row, rank = row[kept], rank[kept]
    image, label = image[row].astype(np.int32), label[row]
    group = label * np.int64(len(image_ids)) + image
    matched, ignored = match_boxes(boxes, Boxes.of(detections.boxes[row], group))
    return MatchTable(
        image_ids=image_ids,
        category_ids=category_ids,
        category_names=tuple(truth.category_names[k] for k in by_id),
        max_detections=max_detections,
        class_starts=np.searchsorted(label, np.arange(len(category_ids) + 1)),
        image=image,
        score=detections.scores[row],
        rank=rank,
        row=row,
        matched_bits=matched,
        ignored_bits=ignored,
        truth_image=truth_image,
        truth_class=truth_class,
        truth_counted=np.array([boxes.ignored & bits == 0 for bits in AREA_BITS]),
    )


def _truth_boxes(truth: TruthArrays, image_ids: np.ndarray, category_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, TruthBoxes]:
    """Image and class (int32 [G]) of the boxes, and the boxes, in the order of :class:`TruthBoxes`."""
    image = np.searchsorted(image_ids, truth.box_images).astype(np.int32)
    label = np.searchsorted(category_ids, truth.box_categories).astype(np.int32)
    order = np.lexsort((image, label))
    boxes = Boxes.of(truth.boxes[order], label[order] * np.int64(len(image_ids)) + image[order])
    return image[order], label[order], TruthBoxes.of(boxes, truth.crowd[order], truth.areas[order])


def _indices(known: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Positions of ``ids`` in ``known``, in 16 bits if they fit."""
    return np.searchsorted(known, ids).astype(np.uint16 if len(known) <= _RADIX_LIMIT else np.uint32)


def _in_order(image: np.ndarray, label: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows in the order of :class:`MatchTable`, int64 [N], and the rank of each within its image and class, int32 [N]."""
    row = image.argsort(kind="stable")
    row = row[(-scores[row]).argsort(kind="stable")]
    row = row[label[row].argsort(kind="stable")]
    group = label[row] * np.int64(int(image.max(initial=0)) + 1) + image[row]
    return row, position_in_run(group, image[row].argsort(kind="stable"))
