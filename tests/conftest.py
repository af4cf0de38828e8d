"""A small COCO data set that several test folders share."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers are as many as cores: more threads than that wait for each other, ten times as long where something else runs besides.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

COCO_CATEGORIES = [{"id": 0, "name": "red"}, {"id": 7, "name": "green"}, {"id": 90, "name": "blue"}]
_COLOURS = {0: (230, 30, 30), 7: (30, 200, 30), 90: (30, 30, 230)}
# (width, height, number of objects): landscape, portrait, square, long, one without boxes
_TRAIN = [(96, 64, 3), (64, 96, 2), (80, 80, 4), (120, 80, 0), (96, 72, 1), (72, 96, 5), (128, 40, 2), (64, 64, 1)]
_VAL = [(96, 64, 2), (64, 96, 3), (80, 80, 1), (100, 75, 2)]


def write_split(root: Path, split: str, shapes: list[tuple[int, int, int]], seed: int) -> None:
    """Pictures of coloured rectangles on grey noise under ``root/split`` and their annotations; the last object of the file is a crowd."""
    rng = np.random.default_rng(seed)
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for number, (width, height, count) in enumerate(shapes):
        picture = Image.fromarray(rng.integers(90, 130, (height, width, 3), dtype=np.uint8))
        draw = ImageDraw.Draw(picture)
        image_id = 10 * seed + number
        for _ in range(count):
            category = int(rng.choice([category["id"] for category in COCO_CATEGORIES]))
            w, h = int(rng.integers(12, width // 2)), int(rng.integers(12, height // 2))
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            draw.rectangle((x, y, x + w - 1, y + h - 1), fill=_COLOURS[category])
            box = {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": category, **box})
        name = f"{split}_{number:03d}.{'png' if number % 3 else 'jpg'}"
        picture.save(root / split / name)
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
    annotations[-1]["iscrowd"] = 1
    document = {"images": images, "annotations": annotations, "categories": COCO_CATEGORIES}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


@pytest.fixture(scope="session")
def coco_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO data set of 8 training and 4 validation pictures, 3 classes with the ids 0, 7 and 90. Read only: it is shared."""
    root = tmp_path_factory.mktemp("coco_set")
    write_split(root, "train", _TRAIN, seed=1)
    write_split(root, "val", _VAL, seed=2)
    return root
