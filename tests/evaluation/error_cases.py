"""Data sets for the tests of the error analysis: random ones, and the golden ones of tidecv."""

import json
from pathlib import Path

import numpy as np

from fusion_det.evaluation.predictions import DetectionArrays

GOLDEN = json.loads(Path(__file__).with_name("tide_golden.json").read_text())["sets"]


def truth_of(rows: list, images: int, classes: int) -> dict:
    """COCO ground truth from rows [image, class, x, y, w, h, crowd]; ids are not positions: 10 + 3 * image, 7 + 2 * class."""
    return {
        "images": [{"id": 10 + 3 * image} for image in range(images)],
        "categories": [{"id": 7 + 2 * label, "name": f"class {label}"} for label in range(classes)],
        "annotations": [
            {"id": i + 1, "image_id": 10 + 3 * image, "category_id": 7 + 2 * label, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
            for i, (image, label, *box, crowd) in enumerate(rows)
        ],
    }


def detections_of(rows: list) -> DetectionArrays:
    """Detections from rows [image, class, x, y, w, h, score]."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    return DetectionArrays(
        image_ids=10 + 3 * table[:, 0].astype(np.int64),
        category_ids=7 + 2 * table[:, 1].astype(np.int64),
        boxes=table[:, 2:6],
        scores=table[:, 6],
    )


def random_rows(
    seed: int, *, images: int = 6, classes: int = 3, boxes: int = 6, detections: int = 15, digits: int = 2
) -> tuple[list, list]:
    """Rows of ground truth (every tenth a crowd) and of detections, near it and far, many with equal scores."""
    draw = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(images):
        for _ in range(int(draw.integers(0, boxes + 1))):
            box = [*draw.uniform(0, 200, 2), *draw.uniform(10, 120, 2)]
            if truth and truth[-1][0] == image and draw.random() < 0.3:  # two boxes that one detection can match
                box = np.array(truth[-1][2:6]) * draw.uniform(0.85, 1.15, 4)
            truth.append([image, int(draw.integers(classes)), *(round(float(v), 1) for v in box), int(draw.random() < 0.1)])
    for _ in range(detections * images):
        if truth and draw.random() < 0.8:
            image, label, *box, _crowd = truth[int(draw.integers(len(truth)))]
            box = np.array(box) + np.array([*box[2:], *box[2:]]) * draw.normal(0, draw.choice([0.02, 0.1, 0.25]), 4)
        else:
            image, label, box = int(draw.integers(images)), 0, [*draw.uniform(0, 200, 2), *draw.uniform(10, 120, 2)]
        label = label if draw.random() < 0.7 else int(draw.integers(classes))
        found.append([image, label, *(max(1.0, round(float(v), 1)) for v in box), round(float(draw.random()), digits)])
    return truth, found
