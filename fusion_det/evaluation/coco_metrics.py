"""COCO box metrics behind guards: a number is given only for finite, complete and matching input."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from fusion_det.evaluation.array_metrics import match_checked
from fusion_det.evaluation.box_metrics import CLASS_NAMES, BoxMetrics, Number
from fusion_det.evaluation.curves import Curves
from fusion_det.evaluation.ground_truth import refuse_unknown_ids
from fusion_det.evaluation.precision_recall import class_numbers, mean_of_defined, summary_numbers
from fusion_det.evaluation.predictions import DetectionArrays
from fusion_det.evaluation.repeats import repeats_warning
from fusion_det.evaluation.truth_arrays import TruthArrays

Backend = Literal["array", "pycocotools"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


def evaluate_boxes(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]] | DetectionArrays,
    *,
    max_detections: int = 100,
    backend: Backend = "array",
) -> BoxMetrics:
    """The twelve COCO numbers, those of each class, and the curves, of ``results`` against ``ground_truth``.

    ``ground_truth`` is a COCO dict (images, annotations, categories; ``xywh`` boxes in the original frame); ``results`` are COCO results
    or their columns, in any order. ``max_detections`` per image and class replaces COCO's 100. Neither input is changed. ``backend`` is
    what computes precision and recall: our array evaluator, or pycocotools, the reference, which gives the same numbers later.

    Raises :class:`DataError` for numbers that are not finite, negative sizes, and ids that are unknown or repeated.
    """
    if max_detections < 1 or backend not in BACKENDS:
        raise ValueError(f"expected max_detections >= 1 and backend in {BACKENDS}, got {max_detections} and {backend!r}")
    warnings: list[str] = []
    detections = results if isinstance(results, DetectionArrays) else DetectionArrays.from_results(results)
    detections.check_numbers()
    truth = TruthArrays.of(ground_truth, warnings)
    refuse_unknown_ids(detections, truth.image_ids, truth.category_ids)
    precision, recall = _precision_recall(truth, detections, max_detections, backend)

    counts = _counts(truth, detections, max_detections)
    order = np.argsort(truth.category_ids)
    class_counts = _class_counts(truth)
    per_class = {truth.unique_names[k]: class_numbers(precision[:, :, i], recall[:, i]) | class_counts[k] for i, k in enumerate(order)}
    curves = Curves(truth.category_ids[order], tuple(per_class), precision, recall)
    return BoxMetrics(
        summary=summary_numbers(precision, recall),
        per_class=per_class,
        per_supercategory=_supercategory_means(truth, per_class),
        per_iou=_iou_numbers(curves),
        counts=counts,
        warnings=(*warnings, *_warnings(counts, per_class), *repeats_warning(detections)),
        curves=curves,
    )


def _precision_recall(truth: TruthArrays, detections: DetectionArrays, limit: int, backend: Backend) -> tuple[np.ndarray, np.ndarray]:
    if backend == "array":
        return match_checked(truth, detections, max_detections=limit).precision_recall()
    from fusion_det.evaluation.coco_reference import reference_precision_recall

    return reference_precision_recall(truth.as_coco(), detections, limit)


def _iou_numbers(curves: Curves) -> dict[str, dict[str, Number]]:
    return {
        f"{iou:.2f}": {"AP": mean_of_defined(curves.precision[t, :, :, 0]), "AR100": mean_of_defined(curves.recall[t, :, 0, -1])}
        for t, iou in enumerate(curves.iou_thresholds)
    }


def _warnings(counts: dict[str, int], per_class: dict[str, dict[str, Any]]) -> list[str]:
    if not counts["boxes"]:
        return ["the ground truth has no boxes: nothing can be measured"]
    warnings = [] if counts["detections"] else ["there are no detections: every number is 0"]
    empty = [name for name, values in per_class.items() if not values["boxes"]]
    if empty:
        names = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        warnings.append(f"{len(empty)} of {len(per_class)} classes have no boxes and are left out of the means: {names}")
    return warnings


def _counts(truth: TruthArrays, detections: DetectionArrays, max_detections: int) -> dict[str, int]:
    images_with_boxes = np.unique(truth.box_images[~truth.crowd])
    categories_with_boxes = np.unique(truth.box_categories[~truth.crowd])
    return {
        "images": len(truth.image_ids),
        "images_without_boxes": len(truth.image_ids) - len(images_with_boxes),
        "images_without_detections": len(truth.image_ids) - len(np.unique(detections.image_ids)),
        "boxes": int((~truth.crowd).sum()),
        "crowds": int(truth.crowd.sum()),
        "detections": len(detections),
        "classes": len(truth.category_ids),
        "classes_without_boxes": len(truth.category_ids) - len(categories_with_boxes),
        "max_detections": max_detections,
    }


def _class_counts(truth: TruthArrays) -> list[dict[str, int]]:
    """Images and boxes of each of the K categories, crowds not counted."""
    categories, images = truth.box_categories[~truth.crowd], truth.box_images[~truth.crowd]
    boxes = dict(zip(*(column.tolist() for column in np.unique(categories, return_counts=True)), strict=True))
    pairs = np.unique(np.stack([categories, images], axis=1), axis=0)[:, 0]
    shown = dict(zip(*(column.tolist() for column in np.unique(pairs, return_counts=True)), strict=True))
    return [{"images": shown.get(number, 0), "boxes": boxes.get(number, 0)} for number in truth.category_ids.tolist()]


def _supercategory_means(truth: TruthArrays, per_class: dict[str, dict[str, Any]]) -> dict[str, dict[str, Number]]:
    members: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, group in zip(truth.unique_names, truth.supercategories, strict=True):
        members[str(group or "none")].append(per_class[name])
    if len(members) < 2:
        return {}
    return {
        group: {
            name: float(np.mean(defined)) if (defined := [c[name] for c in classes if c[name] is not None]) else None
            for name in CLASS_NAMES
        }
        for group, classes in members.items()
    }
