"""How far the detector of an arm leans on each level: an ablation on some validation pictures, within a time. Imports torch."""

from __future__ import annotations

import time
from typing import Any

from fusion_det.analysis.level_ablation import Part, level_ablation
from fusion_det.compare.insight.detectors import batches_of, chosen_pictures
from fusion_det.data.coco_index import CocoIndex
from fusion_det.inference import LoadedDetector

PARTS: tuple[Part, ...] = ("backbone", "neck")
MOST_PICTURES, FEWEST_PICTURES = 64, 16


def measure_reliance(detector: LoadedDetector, index: CocoIndex, *, seconds: float) -> dict[str, Any]:
    """``{part: levels.json, "pictures": n}`` on as many pictures as about ``seconds`` allow, the same first ones for all detectors."""
    pictures = chosen_pictures(index, MOST_PICTURES)
    trial = batches_of(index, detector, pictures[:FEWEST_PICTURES])
    detector.detect(trial[0][0])  # the first pass is slow
    begin = time.perf_counter()
    for images, _ in trial:
        detector.detect(images)
    each = (time.perf_counter() - begin) / min(len(pictures), FEWEST_PICTURES)
    passes = sum(_passes(detector, part) for part in PARTS)
    count = max(FEWEST_PICTURES, min(len(pictures), int(seconds / max(each * passes, 1e-9))))
    return reliance_on(detector, index, pictures[:count])


def reliance_on(detector: LoadedDetector, index: CocoIndex, pictures: list[int]) -> dict[str, Any]:
    """The same on just these pictures."""
    chosen = {int(index.image_ids[picture]) for picture in pictures}
    truth = index.ground_truth()
    truth["images"] = [image for image in truth["images"] if image["id"] in chosen]
    truth["annotations"] = [annotation for annotation in truth["annotations"] if annotation["image_id"] in chosen]
    batches = batches_of(index, detector, pictures)
    limit = detector.config["eval"]["max_detections"]
    found: dict[str, Any] = {part: level_ablation(detector, batches, truth, part=part, max_detections=limit).as_dict() for part in PARTS}
    return {**found, "pictures": len(pictures)}


def _passes(detector: LoadedDetector, part: Part) -> int:
    """About so many forward passes: each level dropped and kept alone, for two replacements, and the means."""
    levels = (detector.model.head if part == "neck" else detector.model.backbone).levels
    return 2 + 4 * len(levels)  # type: ignore[arg-type]
