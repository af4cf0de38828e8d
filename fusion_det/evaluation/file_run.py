"""Measuring a predictions file of ours or of any other framework against a COCO annotation file."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from fusion_det.config.files import write_atomic, write_json
from fusion_det.data.coco_file import read_coco
from fusion_det.errors import DataError, FusionDetError
from fusion_det.evaluation.box_metrics import BoxMetrics
from fusion_det.evaluation.coco_metrics import evaluate_boxes
from fusion_det.evaluation.error_report import ErrorReport, error_report
from fusion_det.evaluation.expectations import check_expectations
from fusion_det.evaluation.levels import level_names
from fusion_det.evaluation.predictions import DetectionArrays, read_detections, read_predictions
from fusion_det.evaluation.repeats import repeated

if TYPE_CHECKING:
    from fusion_det.config.schema import EvaluateConfig

logger = logging.getLogger(__name__)
COCO_DETECTIONS = 100


def evaluate_files(settings: EvaluateConfig) -> None:
    """Log the table of ``dt`` against ``gt`` and write ``results.json`` (and ``curves.csv``); default: a folder beside ``dt``."""
    assert settings.gt is not None
    assert settings.dt is not None
    truth_file, predictions_file = Path(settings.gt).expanduser(), Path(settings.dt).expanduser()
    ground_truth = dict(read_coco(truth_file)._asdict())
    records = read_predictions(predictions_file) if settings.errors else None  # they may tell the pyramid levels
    detections = read_detections(predictions_file) if records is None else DetectionArrays.from_results(records)
    refuse_repeats(detections, where=str(predictions_file))
    output = Path(settings.output) if settings.output else predictions_file.parent / f"evaluate-{predictions_file.stem}"
    limit = settings.max_detections or COCO_DETECTIONS
    try:
        metrics = evaluate_boxes(ground_truth, detections, max_detections=limit, backend=settings.backend)
    except DataError as error:
        where = f"{predictions_file} on {truth_file}: {error.where}"
        raise DataError(error.what, where=where, mend=error.mend) from error
    errors = error_report(ground_truth, detections, levels=level_names(records), max_detections=limit) if records is not None else None
    written = write_measured(output, metrics, curves=settings.curves, errors=errors, header={
        "predictions": str(predictions_file),
        "predictions_sha256": _digest(predictions_file),
        "annotations": str(truth_file),
        "annotations_sha256": _digest(truth_file),
        "backend": settings.backend,
    })  # fmt: skip
    log_measured(metrics, errors)
    logger.info("in %s: %s", output, ", ".join(written))
    check_expectations(metrics, settings.expect)


def refuse_repeats(detections: DetectionArrays, *, where: str) -> None:
    """Raise :class:`DataError` if a detection is given twice; it would count as a false positive."""
    again, first = repeated(detections)
    if len(again):
        raise DataError(
            f"{len(again)} detections are given twice, the first repeats [{first[0]}]",
            where=f"{where}[{again[0]}] (image {detections.image_ids[again[0]]})",
            mend="a picture was perhaps predicted twice; write each detection once",
        )


def write_measured(
    output: Path, metrics: BoxMetrics, *, curves: bool, errors: ErrorReport | None = None, header: dict[str, object]
) -> list[str]:
    """Write ``results.json``, and ``curves.csv`` if asked for, into the folder ``output``; the names written."""
    analysis = {} if errors is None else {"errors": errors.as_dict()}
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "results.json", {"finished": True, **header, **metrics.as_dict(), **analysis})
        if curves and metrics.curves is not None:
            write_atomic(output / "curves.csv", metrics.curves.csv().encode())
    except OSError as error:
        raise FusionDetError(f"cannot write: {error.strerror}", where=str(output), mend="choose another folder with output=DIR") from error
    return ["results.json", *(["curves.csv"] if curves else [])]


def log_measured(metrics: BoxMetrics, errors: ErrorReport | None) -> None:
    """The numbers for people, and why they are so, where that was asked for."""
    logger.info("%s", metrics.table())
    if errors is not None:
        logger.info("\n%s", errors.table())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
