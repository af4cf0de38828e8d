"""``tools/ensemble.py``: the predictions files of several detectors become one."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fusion_det.config.files import write_json
from fusion_det.config.instantiate import build
from fusion_det.data.coco_file import read_coco
from fusion_det.engine.device import choose_device
from fusion_det.errors import ConfigError, FusionDetError
from fusion_det.evaluation.box_metrics import BoxMetrics
from fusion_det.evaluation.coco_metrics import evaluate_boxes
from fusion_det.evaluation.evaluator import check_expectations
from fusion_det.evaluation.prediction_files import FileSources, read_files, refuse_unknown_ids
from fusion_det.evaluation.predictions import to_coco_results, write_predictions

if TYPE_CHECKING:
    from fusion_det.config.schema import EnsembleConfig

logger = logging.getLogger(__name__)
IMAGES_AT_ONCE = 64


def fuse_files(settings: EnsembleConfig) -> None:
    """Write ``predictions.json`` (each detection with its level, and its file as ``source``) and ``results.json`` (files, metrics)."""
    paths = [settings.predictions] if isinstance(settings.predictions, str) else list(settings.predictions)
    if settings.weights is not None and len(settings.weights) != len(paths):
        fault = f"{len(settings.weights)} weights for {len(paths)} files"
        raise ConfigError(fault, where="weights", mend="give one number per file, or null")
    if settings.expect and settings.annotations is None:
        raise ConfigError("nothing is measured without annotations=FILE", where="expect", mend="add annotations=FILE")
    files, output = read_files(paths), _folder(settings.output)
    truth = _truth(settings.annotations) if settings.annotations is not None else None
    if truth is not None:
        images, categories = ([record.get("id") for record in truth[key]] for key in ("images", "categories"))
        refuse_unknown_ids(files, images, categories, str(settings.annotations))
    sources = FileSources.of(files, score_threshold=settings.score_threshold)
    shared = set.intersection(*(set(file.arrays.image_ids.tolist()) for file in files))
    logger.info(
        "%d files, %d pictures (%d in all files), %d classes", len(files), len(sources.image_ids), len(shared), len(sources.category_ids)
    )
    results = _fuse(sources, settings)
    write_predictions(output / "predictions.json", results)
    summary: dict[str, Any] = {
        "finished": True,
        "sources": paths,
        "weights": settings.weights,
        "late_fusion": settings.late_fusion,
        "score_threshold": settings.score_threshold,
        "annotations": settings.annotations,
    }
    if truth is None:
        write_json(output / "results.json", summary)
        logger.info("%d detections of %d; in %s: predictions.json, results.json", len(results), sum(len(f.results) for f in files), output)
        return
    alone = [evaluate_boxes(truth, file.results) for file in files]
    metrics = evaluate_boxes(truth, results)
    write_json(output / "results.json", {**summary, "each": [m.summary for m in alone], **metrics.as_dict()})
    logger.info("%s", metrics.table())
    for path, single in (*zip(paths, alone, strict=True), ("together", metrics)):
        logger.info("%s  %s", _short(single), path)
    logger.info("in %s: predictions.json, results.json", output)
    check_expectations(metrics, settings.expect)


def _fuse(sources: FileSources, settings: EnsembleConfig) -> list[dict[str, Any]]:
    late_fusion = build(settings.late_fusion)
    if settings.weights is not None and "weights" not in inspect.signature(type(late_fusion).__call__).parameters:
        raise ConfigError(f"{type(late_fusion).__name__} takes no weights", where="weights", mend="choose another late_fusion=")
    device: torch.device = choose_device(settings.device)
    results: list[dict[str, Any]] = []
    for image_ids, batch in sources.batches(IMAGES_AT_ONCE, device):
        found = late_fusion(batch) if settings.weights is None else late_fusion(batch, settings.weights)
        results += to_coco_results(found, image_ids, sources.category_ids, sources.level_names)
    return results


def _truth(path: str) -> dict[str, Any]:
    """The annotation file as a COCO dict; its own faults are told by the evaluation."""
    return dict(read_coco(Path(path))._asdict())


def _folder(name: str) -> Path:
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FusionDetError(f"cannot write: {error.strerror}", where=name, mend="choose another folder with output=DIR") from error
    return folder


def _short(metrics: BoxMetrics) -> str:
    return "  ".join(f"{k} {'-' if (v := metrics.summary[k]) is None else f'{100 * v:.1f}'}" for k in ("AP", "AP50", "AP75"))
