"""A detector over a data set: predictions, and the numbers they earn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from fusion_det.data.coco_index import CocoIndex
from fusion_det.detector import Detector
from fusion_det.engine.device import autocast
from fusion_det.evaluation.coco_metrics import Backend, BoxMetrics, evaluate_boxes
from fusion_det.evaluation.expectations import check_expectations as check_expectations
from fusion_det.evaluation.predictions import to_coco_results
from fusion_det.structures import Detections, ImageBatch, Targets


@torch.inference_mode()
def collect_predictions(
    model: Detector,
    batches: Iterable[tuple[ImageBatch, Targets]],
    *,
    category_ids: list[int],
    device: torch.device,
    precision: str,
    on_batch: Callable[[ImageBatch], None] = lambda images: None,
) -> list[dict[str, Any]]:
    """COCO results (original pixels, original ids, level names) of ``model`` in evaluation mode; ``on_batch`` gets each batch when done."""
    was_training = model.training
    model.eval()
    level_names = [level.name for level in model.head.levels]  # type: ignore[union-attr]
    results: list[dict[str, Any]] = []
    try:
        for images, _ in batches:
            images = images.to(device)
            with autocast(device, precision):
                detections = model.predict(images)
            results += to_coco_results(detections, images.image_ids, category_ids, level_names)
            on_batch(images)
    finally:
        model.train(was_training)
    return results


@torch.inference_mode()
def collect_results(
    detect: Callable[..., Detections],
    loaders: Sequence[Iterable[tuple[ImageBatch, Targets]]],
    *,
    category_ids: Sequence[int],
    level_names: Sequence[str],
) -> list[dict[str, Any]]:
    """COCO results of ``detect``, which takes one batch of each of ``loaders``: the same pictures, in the same order, at several sizes."""
    results: list[dict[str, Any]] = []
    for batches in zip(*loaders, strict=True):
        images = [batch for batch, _ in batches]
        if len({batch.image_ids for batch in images}) > 1:
            raise ValueError(f"expected the same pictures at every size, got {[batch.image_ids for batch in images]}")
        results += to_coco_results(detect(*images), images[0].image_ids, category_ids, level_names)
    return results


def score_predictions(index: CocoIndex, results: list[dict[str, Any]], *, max_detections: int, backend: Backend = "array") -> BoxMetrics:
    """The 12 COCO numbers of ``results`` on the ground truth of ``index``."""
    return evaluate_boxes(index.ground_truth(), results, max_detections=max_detections, backend=backend)
