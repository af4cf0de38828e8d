"""Detections and ground-truth boxes of a data set, in one order, with every pair of them that overlaps. NumPy only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_det.evaluation.ground_truth import refuse_unknown_ids
from fusion_det.evaluation.truth_arrays import TruthArrays

if TYPE_CHECKING:
    from fusion_det.evaluation.predictions import DetectionArrays

_CHUNK = 1 << 19
"""Pairs looked at in one go: 4 MB per array, which stays in a cache; larger chunks are slower and need more memory."""


@dataclass(frozen=True)
class Overlaps:
    """Columns of N kept detections, G boxes that are not crowds, and P pairs of them in one image, sorted by detection, then box.

    Images and classes are indices into the sorted ids. Boxes are ``xywh`` in pixels of the original frame, as in files.
    """

    image_ids: np.ndarray
    """int64 [I], sorted."""
    category_ids: np.ndarray
    """int64 [K], sorted."""
    category_names: tuple[str, ...]
    """A name that several categories share is followed by the id."""
    max_detections: int | None
    """Detections kept per image, whatever their classes; ``None``: all of them."""
    minimum_iou: float
    """Pairs with a smaller IoU are left out."""

    row: np.ndarray
    """int64 [N]: row of the detection in the input. Detections are sorted by image, then falling score, equal scores as they came."""
    image: np.ndarray
    """int64 [N]."""
    label: np.ndarray
    """int64 [N] index of the class."""
    score: np.ndarray
    """float64 [N]."""
    crowd_share: np.ndarray
    """float64 [N]: largest part of the detection's area that lies in one crowd region of its class."""

    box_image: np.ndarray
    """int64 [G], sorted; boxes of one image in the order of the annotations."""
    box_label: np.ndarray
    """int64 [G]."""
    box_area: np.ndarray
    """float64 [G]: ``area`` of the annotation, which COCO's sizes go by."""

    pair_detection: np.ndarray
    """int64 [P]."""
    pair_box: np.ndarray
    """int64 [P]."""
    pair_iou: np.ndarray
    """float64 [P]."""

    def __len__(self) -> int:
        return len(self.row)

    @property
    def pair_same(self) -> np.ndarray:
        """bool [P]: the detection has the class of the box."""
        return self.label[self.pair_detection] == self.box_label[self.pair_box]


def find_overlaps(
    ground_truth: dict[str, Any] | TruthArrays, detections: DetectionArrays, *, minimum_iou: float = 0.1, max_detections: int | None = 100
) -> Overlaps:
    """All pairs of ``detections`` and boxes of the ground truth (a COCO dict, or its columns) with an IoU of at least ``minimum_iou``.

    ``max_detections`` keeps the best-scoring ones of each image. Time and memory grow with the detections times the boxes of an image.
    Raises :class:`DataError` for numbers that are not finite and for ids that are unknown or repeated.
    """
    if not 0 < minimum_iou <= 1:
        raise ValueError(f"minimum_iou: expected more than 0 and at most 1, got {minimum_iou}")
    if max_detections is not None and max_detections < 1:
        raise ValueError(f"max_detections: expected at least 1, got {max_detections}")
    detections.check_numbers()
    truth = ground_truth if isinstance(ground_truth, TruthArrays) else TruthArrays.of(ground_truth, [])
    refuse_unknown_ids(detections, truth.image_ids, truth.category_ids)
    image_ids, by_id = np.sort(truth.image_ids), np.argsort(truth.category_ids)
    category_ids = truth.category_ids[by_id]
    found = _sorted_detections(detections, image_ids, category_ids, max_detections)
    boxes, crowds = (_sorted_boxes(truth, image_ids, category_ids, chosen) for chosen in (~truth.crowd, truth.crowd))

    chunks = list(_pairs(found, boxes, len(image_ids), minimum_iou))
    pairs = [np.concatenate(column) for column in zip(*chunks, strict=True)] if chunks else [np.zeros(0, np.int64)] * 2 + [np.zeros(0)]
    crowd_share = np.zeros(len(found["row"]))
    for detection, crowd, share in _pairs(found, crowds, len(image_ids), minimum_iou, crowd=True):
        same = found["label"][detection] == crowds["label"][crowd]
        np.maximum.at(crowd_share, detection[same], share[same])
    return Overlaps(
        image_ids=image_ids,
        category_ids=category_ids,
        category_names=tuple(truth.unique_names[k] for k in by_id),
        max_detections=max_detections,
        minimum_iou=minimum_iou,
        **{name: found[name] for name in ("row", "image", "label", "score")},
        crowd_share=crowd_share,
        **{f"box_{name}": boxes[name] for name in ("image", "label", "area")},
        pair_detection=pairs[0],
        pair_box=pairs[1],
        pair_iou=pairs[2],
    )


def match_in_order(detection: np.ndarray, box: np.ndarray, iou: np.ndarray, count: int) -> np.ndarray:
    """int64 [count]: the box of each detection, or -1. Detections choose in their order, each the free box with the largest IoU.

    The three arrays [P] are the pairs that may match, sorted by detection, then box; of two boxes with equal IoU the first is taken.
    """
    order = np.lexsort((-iou, detection))
    matched = np.full(count, -1, np.int64)
    free = set(np.unique(box).tolist())
    last = -1
    for d, b in zip(detection[order].tolist(), box[order].tolist(), strict=True):
        if d != last and b in free:
            free.remove(b)
            matched[d] = b
            last = d
    return matched


def best_pair(overlaps: Overlaps, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU (float64 [N], 0 for none) and box (int64 [N], -1 for none) of the best pair of each detection among ``chosen`` (bool [P]).

    Of two boxes with equal IoU the first is taken.
    """
    detection, box, iou = overlaps.pair_detection[chosen], overlaps.pair_box[chosen], overlaps.pair_iou[chosen]
    order = np.lexsort((-iou, detection))
    detection, first = np.unique(detection[order], return_index=True)
    best, which = np.zeros(len(overlaps)), np.full(len(overlaps), -1, np.int64)
    best[detection], which[detection] = iou[order][first], box[order][first]
    return best, which


def _sorted_detections(
    detections: DetectionArrays, image_ids: np.ndarray, category_ids: np.ndarray, max_detections: int | None
) -> dict[str, np.ndarray]:
    image = np.searchsorted(image_ids, detections.image_ids)
    row = np.argsort(-detections.scores, kind="stable")
    row = row[image[row].astype(np.uint16 if len(image_ids) <= 1 << 16 else np.uint32).argsort(kind="stable")]  # 16 bits: by radix
    if max_detections is not None:
        starts = np.searchsorted(image[row], np.arange(len(image_ids)))
        row = row[np.arange(len(row)) - starts[image[row]] < max_detections]
    return {
        "row": row,
        "image": image[row],
        "label": np.searchsorted(category_ids, detections.category_ids[row]),
        "score": detections.scores[row],
        "boxes": detections.boxes[row],
    }


def _sorted_boxes(truth: TruthArrays, image_ids: np.ndarray, category_ids: np.ndarray, chosen: np.ndarray) -> dict[str, np.ndarray]:
    image = np.searchsorted(image_ids, truth.box_images[chosen])
    order = image.argsort(kind="stable")
    return {
        "image": image[order],
        "label": np.searchsorted(category_ids, truth.box_categories[chosen])[order],
        "area": truth.areas[chosen][order],
        "boxes": truth.boxes[chosen][order],
    }


def _pairs(
    found: dict[str, np.ndarray], boxes: dict[str, np.ndarray], images: int, minimum: float, *, crowd: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Detection, box and IoU of the pairs in one image, chunk after chunk; with ``crowd`` the part of the detection inside the box."""
    starts = np.searchsorted(boxes["image"], np.arange(images + 1))
    partners = np.diff(starts)[found["image"]]
    ends = partners.cumsum()
    low, total = 0, int(ends[-1]) if len(ends) else 0
    while low < len(ends) and (done := int(ends[low] - partners[low])) < total:
        high = max(low + 1, int(np.searchsorted(ends, done + _CHUNK, side="right")))
        detection = np.repeat(np.arange(low, high), partners[low:high])
        box = np.arange(done, done + len(detection)) - (ends - partners)[detection] + starts[found["image"][detection]]
        iou = _iou(found["boxes"][detection], boxes["boxes"][box], crowd=crowd)
        keep = iou >= minimum
        yield detection[keep], box[keep], iou[keep]
        low = high


def _iou(found: np.ndarray, boxes: np.ndarray, *, crowd: bool) -> np.ndarray:
    """IoU of paired ``xywh`` boxes, in the order of operations of pycocotools, so that no pair changes sides at a threshold."""
    (x, y, w, h), (truth_x, truth_y, truth_w, truth_h) = found.T, boxes.T
    width = np.minimum(x + w, truth_x + truth_w) - np.maximum(x, truth_x)
    height = np.minimum(y + h, truth_y + truth_h) - np.maximum(y, truth_y)
    both = width.clip(min=0) * height.clip(min=0)
    union = w * h if crowd else w * h + truth_w * truth_h - both
    return np.divide(both, union, out=np.zeros_like(both), where=both > 0)
