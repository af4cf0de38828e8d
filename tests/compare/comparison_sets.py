"""Random COCO data sets, their physical resampling, and match tables, for the tests of the statistics."""

from __future__ import annotations

import numpy as np

from fusion_det.evaluation.array_metrics import match
from fusion_det.evaluation.coco_metrics import evaluate_boxes
from fusion_det.evaluation.match_table import MatchTable
from fusion_det.evaluation.predictions import DetectionArrays


def random_truth(rng: np.random.Generator, *, images: int = 8, classes: int = 3, boxes: int = 4, crowds: float = 0.1) -> dict:
    """A COCO dict; sizes from 8 to 200 pixels, so that every area range has some."""
    annotations = []
    for image in range(images):
        for _ in range(int(rng.poisson(boxes))):
            x, y = rng.uniform(0, 400, 2)
            w, h = np.exp(rng.uniform(np.log(8), np.log(200), 2))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 3 * image + 1,
                    "category_id": 2 * int(rng.integers(classes)) + 1,
                    "bbox": [float(x), float(y), float(w), float(h)],
                    "area": float(w * h * rng.uniform(0.5, 1)),
                    "iscrowd": int(rng.random() < crowds),
                }
            )
    return {
        "images": [{"id": 3 * image + 1} for image in range(images)],
        "annotations": annotations,
        "categories": [{"id": 2 * k + 1, "name": f"class {k}"} for k in range(classes)],
    }


def random_detections(
    rng: np.random.Generator, truth: dict, *, recall: float = 0.8, jitter: float = 0.1, false: int = 30, digits: int = 2
) -> DetectionArrays:
    """Shifted copies of most boxes and false alarms; few digits make scores tie, but only those of different images.

    (Which of two equal scores of one image comes first is a matter of taste once the image is there twice.)
    """
    ids, kinds = [image["id"] for image in truth["images"]], [category["id"] for category in truth["categories"]]
    rows = []
    for annotation in truth["annotations"]:
        for _ in range(1 + (rng.random() < 0.2)):
            if rng.random() < recall:
                x, y, w, h = annotation["bbox"]
                dx, dy, dw, dh = rng.normal(0, jitter, 4)
                box = [x + dx * w, y + dy * h, w * np.exp(dw), h * np.exp(dh)]
                rows.append((annotation["image_id"], annotation["category_id"], box, round(float(rng.beta(3, 2)), digits)))
    for _ in range(false):
        box = [*rng.uniform(0, 400, 2), *np.exp(rng.uniform(np.log(8), np.log(200), 2))]
        rows.append((int(rng.choice(ids)), int(rng.choice(kinds)), box, round(float(rng.beta(2, 3)), digits)))
    seen: dict[int, int] = {}
    for number, (image, kind, box, score) in enumerate(rows):
        seen[image] = seen.get(image, -1) + 1
        rows[number] = (image, kind, box, score + 1e-5 * seen[image])
    return DetectionArrays(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.float64).reshape(-1, 4),
        np.array([row[3] for row in rows], np.float64),
    )


def random_table(
    seed: int, *, digits: int = 2, false: int = 30, truth_seed: int | None = None, recall: float = 0.8, **truth: int
) -> MatchTable:
    """Matches of a random data set; the same ``truth_seed`` gives the same ground truth."""
    data = random_truth(np.random.default_rng([1, seed if truth_seed is None else truth_seed]), **truth)
    return match(data, random_detections(np.random.default_rng([2, seed]), data, digits=digits, false=false, recall=recall))


def resampled_by_hand(truth: dict, detections: DetectionArrays, weights: np.ndarray) -> dict[str, float | None]:
    """The twelve numbers by pycocotools of a data set with so many copies of each image, weights in the order of sorted ids."""
    ids = sorted(image["id"] for image in truth["images"])
    copies = {image: [1000 * image + copy for copy in range(int(weight))] for image, weight in zip(ids, weights, strict=True)}
    annotations = [a | {"image_id": copy} for a in truth["annotations"] for copy in copies[a["image_id"]]]
    rows = [(row, copy) for row, image in enumerate(detections.image_ids.tolist()) for copy in copies[image]]
    index = np.array([row for row, _ in rows], dtype=np.int64)
    again = {
        "images": [{"id": copy} for image in ids for copy in copies[image]],
        "annotations": [a | {"id": number} for number, a in enumerate(annotations, start=1)],
        "categories": truth["categories"],
    }
    found = DetectionArrays(
        np.array([copy for _, copy in rows], np.int64), detections.category_ids[index], detections.boxes[index], detections.scores[index]
    )
    return evaluate_boxes(again, found, backend="pycocotools").summary


def equal_numbers(ours: float, theirs: float | None) -> bool:
    """Equal to 1e-12, or undefined in both."""
    return bool(np.isnan(ours)) if theirs is None else abs(ours - theirs) <= 1e-12
