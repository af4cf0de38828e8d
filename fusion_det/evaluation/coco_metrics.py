"""COCO box metrics by pycocotools, behind guards: a number is given only for finite, complete and matching input."""

from __future__ import annotations

import contextlib
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fusion_det.evaluation.box_metrics import CLASS_NAMES, SUMMARY_NAMES, BoxMetrics, Number
from fusion_det.evaluation.ground_truth import checked_truth, refuse_unknown_detections
from fusion_det.evaluation.predictions import DetectionArrays

_ALL, _SMALL, _MEDIUM, _LARGE = range(4)  # pycocotools' area ranges, by the area of the annotation
_IOU_50, _IOU_75 = 0, 5  # positions in its thresholds 0.50, 0.55, ..., 0.95

Truth = dict[str, list[dict[str, Any]]]


def evaluate_boxes(
    ground_truth: dict[str, Any], results: Sequence[dict[str, Any]] | DetectionArrays, *, max_detections: int = 100
) -> BoxMetrics:
    """The twelve COCO numbers, and those of each class, of ``results`` against ``ground_truth``.

    ``ground_truth`` is a COCO dict (images, annotations, categories; ``xywh`` boxes in the original frame); ``results`` are COCO results
    or their columns, in any order. ``max_detections`` per image and class replaces COCO's 100. Neither input is changed.

    Raises :class:`DataError` for numbers that are not finite, negative sizes, and ids that are unknown or repeated.
    """
    if max_detections < 1:
        raise ValueError(f"max_detections: expected at least 1, got {max_detections}")
    warnings: list[str] = []
    detections = results if isinstance(results, DetectionArrays) else DetectionArrays.from_results(results)
    detections.check_numbers()
    truth = checked_truth(ground_truth, warnings)
    refuse_unknown_detections(detections, truth)
    precision, recall = _accumulate(truth, detections, max_detections)

    counts, class_counts = _counts(truth, detections, max_detections)
    if not counts["boxes"]:
        warnings.append("the ground truth has no boxes: nothing can be measured")
    elif not len(detections):
        warnings.append("there are no detections: every number is 0")
    per_class = {
        name: _class_numbers(precision[:, :, k], recall[:, k]) | class_counts[category_id]
        for k, (category_id, name) in enumerate(sorted(_class_names(truth).items()))
    }
    empty = [name for name, values in per_class.items() if not values["boxes"]]
    if 0 < len(empty) < len(per_class):
        names = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        warnings.append(f"{len(empty)} of {len(per_class)} classes have no boxes and are left out of the means: {names}")
    return BoxMetrics(
        summary=_summary(precision, recall),
        per_class=per_class,
        per_supercategory=_supercategory_means(truth, per_class),
        counts=counts,
        warnings=tuple(warnings),
    )


def _accumulate(truth: Truth, detections: DetectionArrays, max_detections: int) -> tuple[np.ndarray, np.ndarray]:
    """pycocotools' precision [T, R, K, A, M] and recall [T, K, A, M]; K follows the sorted category ids, M is (1, 10, max)."""
    rows = zip(
        detections.image_ids.tolist(), detections.category_ids.tolist(), detections.boxes.tolist(), detections.scores.tolist(), strict=True
    )
    annotations = [
        {"id": i, "image_id": image, "category_id": category, "bbox": box, "score": score, "area": box[2] * box[3], "iscrowd": 0}
        for i, (image, category, box, score) in enumerate(rows, start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress with bare prints
        evaluation = COCOeval(_index(truth), _index({**truth, "annotations": annotations}), "bbox")
        evaluation.params.maxDets = [min(1, max_detections), min(10, max_detections), max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _index(dataset: Truth) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _class_numbers(precision: np.ndarray, recall: np.ndarray) -> dict[str, Number]:
    """The numbers that exist for one class ([T, R, A, M], [T, A, M]) as well as for all of them ([T, R, K, A, M], [T, K, A, M])."""
    numbers = (
        _mean(precision[..., _ALL, -1]),
        _mean(precision[_IOU_50, ..., _ALL, -1]),
        _mean(precision[_IOU_75, ..., _ALL, -1]),
        *(_mean(precision[..., area, -1]) for area in (_SMALL, _MEDIUM, _LARGE)),
        _mean(recall[..., _ALL, -1]),
    )
    return dict(zip(CLASS_NAMES, numbers, strict=True))


def _summary(precision: np.ndarray, recall: np.ndarray) -> dict[str, Number]:
    by_count = {name: _mean(recall[..., _ALL, m]) for m, name in enumerate(("AR1", "AR10", "AR100"))}
    by_size = {name: _mean(recall[..., area, -1]) for name, area in (("ARs", _SMALL), ("ARm", _MEDIUM), ("ARl", _LARGE))}
    numbers = _class_numbers(precision, recall) | by_count | by_size
    return {name: numbers[name] for name in SUMMARY_NAMES}


def _mean(values: np.ndarray) -> Number:
    """The mean of what is defined; pycocotools marks the undefined with -1."""
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else None


def _counts(truth: Truth, detections: DetectionArrays, max_detections: int) -> tuple[dict[str, int], dict[int, dict[str, int]]]:
    """Counts of the whole set, and images and boxes by category id."""
    boxes = [annotation for annotation in truth["annotations"] if not annotation["iscrowd"]]
    images_of = defaultdict(set)
    for annotation in boxes:
        images_of[annotation["category_id"]].add(annotation["image_id"])
    boxes_of = Counter(annotation["category_id"] for annotation in boxes)
    by_class = {c["id"]: {"images": len(images_of[c["id"]]), "boxes": boxes_of[c["id"]]} for c in truth["categories"]}
    total = {
        "images": len(truth["images"]),
        "images_without_boxes": len(truth["images"]) - len(set().union(*images_of.values())),
        "boxes": len(boxes),
        "crowds": len(truth["annotations"]) - len(boxes),
        "detections": len(detections),
        "classes": len(truth["categories"]),
        "classes_without_boxes": sum(not values["boxes"] for values in by_class.values()),
        "max_detections": max_detections,
    }
    return total, by_class


def _class_names(truth: Truth) -> dict[int, str]:
    """A name for each category id; a name that several categories share is followed by the id."""
    uses = Counter(category["name"] for category in truth["categories"])
    return {c["id"]: c["name"] if uses[c["name"]] == 1 else f"{c['name']} ({c['id']})" for c in truth["categories"]}


def _supercategory_means(truth: Truth, per_class: dict[str, dict[str, Any]]) -> dict[str, dict[str, Number]]:
    members: dict[str, list[dict[str, Any]]] = defaultdict(list)
    names = _class_names(truth)
    for category in truth["categories"]:
        members[str(category["supercategory"] or "none")].append(per_class[names[category["id"]]])
    if len(members) < 2:
        return {}
    return {
        supercategory: {
            name: float(np.mean(defined)) if (defined := [c[name] for c in classes if c[name] is not None]) else None
            for name in CLASS_NAMES
        }
        for supercategory, classes in members.items()
    }
