"""Finished run folders written by hand: what a training leaves, without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fusion_det.config.differences import flatten
from fusion_det.data.coco_index import read_index

CONFIG = {
    "seed": 0, "name": "x", "run_dir": None, "init_from": None, "device": "auto",
    "trainer": {"epochs": 2, "pictures": 4}, "eval": {"max_detections": 100, "use_ema": True},
    "neck": {"_target_": "fpn", "channels": 16}, "fusion": {"_target_": "add"}, "block": {"_target_": "conv"},
    "optimizer": {"lr": 0.001}, "data": {"_target_": "coco", "root": "d"}, "late_fusion": {"_target_": "nms"},
}  # fmt: skip


def detections(truth: dict[str, Any], seed: int, noise: float) -> list[dict[str, Any]]:
    """Most boxes of ``truth``, moved a little, and some of nothing."""
    rng = np.random.default_rng(seed)
    found = []
    for annotation in truth["annotations"]:
        box = [max(0.0, value + float(rng.normal(0, noise))) for value in annotation["bbox"]]
        category = int(rng.choice([0, 7, 90])) if rng.random() < 0.2 else annotation["category_id"]
        record = {"image_id": annotation["image_id"], "category_id": category, "bbox": box, "score": float(rng.random())}
        found.append(record)
    return found


def changed(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``config`` with other values under dotted keys."""
    config = json.loads(json.dumps(config))
    for key, value in changes.items():
        node, *rest = key.split(".")[::-1]
        owner = config
        for part in rest[::-1]:
            owner = owner.setdefault(part, {})
        owner[node] = value
    assert flatten(config)
    return config


def write_run(
    folder: Path, root: Path, *, seed: int, noise: float, config: dict[str, Any] | None = None, start: dict[str, Any] | None = None,
    words: list[str] | None = None, environment: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """A finished run on the data set of ``coco_root``; ``config`` and ``start`` are changes under dotted keys."""
    folder.mkdir(parents=True)
    annotations = root / "annotations" / "instances_val.json"
    index = read_index(annotations, root / "val")
    (folder / "config.yaml").write_text(yaml.safe_dump(changed(CONFIG, {"seed": seed, **(config or {})})))
    (folder / "overrides.yaml").write_text(yaml.safe_dump([f"seed={seed}", *(words or [])]))
    (folder / "environment.json").write_text(json.dumps({"python": "3.11", "packages": {"torch": "2.15"}, **(environment or {})}))
    (folder / "predictions.json").write_text(json.dumps(detections(index.ground_truth(), 10 * seed + int(noise * 7), noise)))
    (folder / "metrics.jsonl").write_text('{"step": 4, "train/loss": 1.0}\n{"step": 4, "val/AP": 0.1, "val/AP50": 0.2}\n{"step": 8, "val/')
    results = {"finished": True, "summary": {"AP": 0.1, "AP50": 0.2}, "parameters": 1000, "precision": "fp32"}
    (folder / "results.json").write_text(json.dumps(results))
    record = {
        "format": 1, "steps": 8, "images": {"train": 8, "val": 4}, "data": {"train": "t", "val": index.digest},
        "annotations": str(annotations), "pictures": str(root / "val"), "class_names": ["red", "green", "blue"], "category_ids": [0, 7, 90],
        "hardware": "cpu", "order": f"o{seed}", "first_batch": f"b{seed}",
        "weights": {"backbone": f"w{seed}", "neck": f"n{seed}", "head": f"h{seed}"}, "shapes": {"backbone": "s", "neck": "s", "head": "s"},
    }  # fmt: skip
    (folder / "start.json").write_text(json.dumps(changed(record, start or {})))
    return folder
