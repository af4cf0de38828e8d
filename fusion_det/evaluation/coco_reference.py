"""COCO's precision and recall by pycocotools, the reference."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fusion_det.evaluation.ground_truth import Truth
from fusion_det.evaluation.predictions import DetectionArrays


def reference_precision_recall(truth: Truth, detections: DetectionArrays, max_detections: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision [T, 101, K, A] at ``max_detections``, and recall [T, K, A, 3] at 1, 10 and ``max_detections``; -1 is undefined.

    K follows the sorted category ids. ``truth`` and ``detections`` are checked: pycocotools itself checks nothing.
    """
    columns = (detections.image_ids, detections.category_ids, detections.boxes, detections.scores)
    annotations = [
        {"id": i, "image_id": image, "category_id": category, "bbox": box, "score": score, "area": box[2] * box[3], "iscrowd": 0}
        for i, (image, category, box, score) in enumerate(zip(*(column.tolist() for column in columns), strict=True), start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress with bare prints
        evaluation = COCOeval(_index(truth), _index({**truth, "annotations": annotations}), "bbox")
        evaluation.params.maxDets = [min(1, max_detections), min(10, max_detections), max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., -1], evaluation.eval["recall"]


def _index(dataset: Truth) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco
