"""Measuring a checkpoint, on its own data or on others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fusion_det.config.files import write_json
from fusion_det.config.instantiate import TARGET, build
from fusion_det.data.buckets import Shape, resized
from fusion_det.data.coco_index import CocoIndex, read_index
from fusion_det.data.dataset import DetectionDataset
from fusion_det.data.loader import Batches, eval_loader, worker_count
from fusion_det.data.sources import one_split
from fusion_det.ensemble import Ensemble, chosen_ensemble
from fusion_det.errors import ConfigError, DataError, FusionDetError
from fusion_det.evaluation.error_report import ErrorReport, error_report
from fusion_det.evaluation.evaluator import check_expectations, collect_results, score_predictions
from fusion_det.evaluation.file_run import log_measured, write_measured
from fusion_det.evaluation.levels import level_names
from fusion_det.evaluation.predictions import DetectionArrays, write_predictions

if TYPE_CHECKING:
    from fusion_det.config.schema import EvaluateConfig

logger = logging.getLogger(__name__)


def evaluate(settings: EvaluateConfig) -> None:
    """Write ``predictions.json`` and ``results.json`` (12 numbers, per class) of one or several checkpoints and log the table.

    The data are the (first) checkpoint's own (``split``), those of ``data``, or ``annotations`` with ``images``; their classes must be
    the checkpoint's.
    """
    detector = chosen_ensemble(settings)
    where = detector.detectors[0].where
    index = choose_index(settings, detector)
    for line in index.ledger.lines():
        logger.info("%s: %s", index.name, line)
    check_classes(index, detector, where=where)
    output = Path(settings.output) if settings.output else Path(where).parent / f"evaluate-{index.name}{_suffix(detector, settings)}"
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FusionDetError(f"cannot write: {error.strerror}", where=str(output), mend="choose another folder with output=DIR") from error
    loaders = make_loaders(index, detector.buckets, detector.image_sizes, batch_size=settings.batch_size, workers=settings.workers)
    if len(detector.views) > 1:
        logger.info("sources:\n%s", "\n".join(f"{number:3d} {name}" for number, name in enumerate(detector.source_names)))
    results = collect_results(detector.detect, loaders, category_ids=detector.category_ids, level_names=detector.level_names)
    limit = settings.max_detections or detector.config["eval"]["max_detections"]
    metrics = score_predictions(index, results, max_detections=limit, backend=settings.backend)
    write_predictions(output / "predictions.json", results)
    errors = _errors(index, results, detector, limit) if settings.errors else None
    written = write_measured(output, metrics, curves=settings.curves, errors=errors, header={
        "checkpoint": settings.checkpoint,
        "sources": detector.source_names,
        "weights": settings.weights,
        "late_fusion": detector.late_fusion_node,
        "annotations": str(index.annotation_file),
        "data_digest": index.digest,
        "backend": settings.backend,
        "precision": detector.detectors[0].precision,
    })  # fmt: skip
    log_measured(metrics, errors)
    if settings.levels is not None:
        written.append(_write_levels(output, settings.levels, detector, loaders[0], index, limit))
    logger.info("in %s: %s", output, ", ".join(["predictions.json", *written]))
    check_expectations(metrics, settings.expect)


def make_loaders(
    index: CocoIndex, buckets: tuple[Shape, ...], image_sizes: Sequence[int], *, batch_size: int, workers: int | Literal["auto"]
) -> list[Batches]:
    """The pictures of ``index`` in one order, once for each size; the worker processes are shared out."""
    datasets = [DetectionDataset(index, resized(buckets, size)) for size in image_sizes]
    each = -(-worker_count(workers) // len(datasets))
    for dataset in datasets[1:]:
        dataset.bucket_of_image = datasets[0].bucket_of_image  # one order needs one assignment
    return [eval_loader(dataset, batch_size=batch_size, workers=each) for dataset in datasets]


def _errors(index: CocoIndex, results: list[dict[str, Any]], detector: Ensemble, max_detections: int) -> ErrorReport:
    detections, levels = DetectionArrays.from_results(results), level_names(results)
    return error_report(index.ground_truth(), detections, levels=levels, level_order=detector.level_names, max_detections=max_detections)


def _write_levels(
    output: Path, part: Literal["neck", "backbone"], detector: Ensemble, batches: Batches, index: CocoIndex, max_detections: int
) -> str:
    """Write what replacing each level of ``part`` leaves, on the same pictures, and log its table; the name written."""
    from fusion_det.analysis.level_ablation import level_ablation  # it builds on this package

    (single,) = detector.detectors
    single.model.late_fusion = detector.late_fusion  # another one may have been chosen
    reliance = level_ablation(single, batches, index.ground_truth(), part=part, max_detections=max_detections)
    write_json(output / "levels.json", reliance.as_dict())
    logger.info("\n%s", reliance.table())
    return "levels.json"


def _suffix(detector: Ensemble, settings: EvaluateConfig) -> str:
    """What sets the result apart from that of the checkpoint as it is, so that one does not overwrite the other."""
    words = ["ensemble"] if len(detector.detectors) > 1 else []
    words += ["tta"] if len(detector.views) > len(detector.detectors) or detector.image_sizes[0] != detector.detectors[0].image_size else []
    words += [str(detector.late_fusion_node[TARGET]).split(".")[-2]] if settings.late_fusion else []
    return "".join(f"-{word}" for word in words)


def choose_index(settings: EvaluateConfig, detector: Ensemble) -> CocoIndex:
    """The index that the settings mean."""
    if settings.annotations is not None:
        if settings.images is None:
            raise ConfigError("annotations= needs the folder of its pictures", where="images", mend="add images=DIR")
        return read_index(Path(settings.annotations).expanduser(), Path(settings.images).expanduser())
    own: dict[str, Any] = detector.config["data"]
    node = dict(settings.data or {})
    node = node if "_target_" in node else own | node
    image_size = detector.detectors[0].image_size
    if node.get("image_size", image_size) != image_size:
        logger.info("pictures are resized to the checkpoint's %d px; data.image_size is not used here", image_size)
    if "root" in (settings.data or {}) and settings.split not in ("train", "val"):
        return one_split(node["root"], settings.split)
    source = build(node)
    if settings.split in ("train", "val"):
        return source.train if settings.split == "train" else source.val
    return one_split(str(source.val.annotation_file.parent.parent), settings.split)


def check_classes(index: CocoIndex, detector: Ensemble, *, where: str) -> None:
    """Refuse data whose classes are not the checkpoint's, naming the difference."""
    if index.class_names == detector.class_names and index.category_ids == detector.category_ids:
        return
    ours = list(zip(detector.category_ids, detector.class_names, strict=True))
    theirs = list(zip(index.category_ids, index.class_names, strict=True))
    raise DataError(
        f"the checkpoint knows {len(ours)} classes, the data has {len(theirs)}; only in the checkpoint: "
        f"{[c for c in ours if c not in theirs][:5]}; only in the data: {[c for c in theirs if c not in ours][:5]}",
        where=f"{where} and {index.annotation_file}",
        mend="evaluate on data with the same category ids and names, or fine-tune with init_from=",
    )
