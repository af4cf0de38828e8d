"""Measuring a checkpoint, on its own data or on others."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion_det.config.files import write_json
from fusion_det.config.instantiate import build
from fusion_det.data.buckets import make_buckets
from fusion_det.data.coco_index import CocoIndex, read_index
from fusion_det.data.dataset import DetectionDataset
from fusion_det.data.loader import eval_loader
from fusion_det.data.sources import one_split
from fusion_det.errors import ConfigError, DataError, FusionDetError
from fusion_det.evaluation.evaluator import check_expectations, collect_predictions, score_predictions
from fusion_det.evaluation.predictions import write_predictions
from fusion_det.inference import LoadedDetector, load

if TYPE_CHECKING:
    from fusion_det.config.schema import EvaluateConfig

logger = logging.getLogger(__name__)


def evaluate(settings: EvaluateConfig) -> None:
    """Write ``predictions.json`` and ``results.json`` (12 numbers, per class) of a checkpoint and log the table.

    The data are the checkpoint's own (``split``), those of ``data``, or ``annotations`` with ``images``; their classes must be the
    checkpoint's.
    """
    detector = load(settings.checkpoint, device=settings.device, use_ema=settings.use_ema)
    index = choose_index(settings, detector)
    for line in index.ledger.lines():
        logger.info("%s: %s", index.name, line)
    check_classes(index, detector, where=settings.checkpoint)
    output = Path(settings.output) if settings.output else Path(settings.checkpoint).parent / f"evaluate-{index.name}"
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FusionDetError(f"cannot write: {error.strerror}", where=str(output), mend="choose another folder with output=DIR") from error
    dataset = DetectionDataset(index, make_buckets(detector.image_size))
    batches = eval_loader(dataset, batch_size=settings.batch_size, workers=settings.workers)
    results = collect_predictions(
        detector.model, batches, category_ids=list(detector.category_ids), device=detector.device, precision=detector.precision
    )
    metrics = score_predictions(index, results, max_detections=detector.config["eval"]["max_detections"])
    write_predictions(output / "predictions.json", results)
    write_json(
        output / "results.json",
        {
            "finished": True,
            "checkpoint": settings.checkpoint,
            "annotations": str(index.annotation_file),
            "data_digest": index.digest,
            **metrics.as_dict(),
            "precision": detector.precision,
        },
    )
    logger.info("%s", metrics.table())
    logger.info("in %s: predictions.json, results.json", output)
    check_expectations(metrics, settings.expect)


def choose_index(settings: EvaluateConfig, detector: LoadedDetector) -> CocoIndex:
    """The index that the settings mean."""
    if settings.annotations is not None:
        if settings.images is None:
            raise ConfigError("annotations= needs the folder of its pictures", where="images", mend="add images=DIR")
        return read_index(Path(settings.annotations).expanduser(), Path(settings.images).expanduser())
    own: dict[str, Any] = detector.config["data"]
    node = dict(settings.data or {})
    node = node if "_target_" in node else own | node
    if node.get("image_size", detector.image_size) != detector.image_size:
        logger.info("pictures are resized to the checkpoint's %d px; data.image_size is not used here", detector.image_size)
    if "root" in (settings.data or {}) and settings.split not in ("train", "val"):
        return one_split(node["root"], settings.split)
    source = build(node)
    if settings.split in ("train", "val"):
        return source.train if settings.split == "train" else source.val
    return one_split(str(source.val.annotation_file.parent.parent), settings.split)


def check_classes(index: CocoIndex, detector: LoadedDetector, *, where: str) -> None:
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
