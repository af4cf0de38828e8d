"""A complete checkpoint of a very small detector with random weights, without a training run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fusion_det.build import build_detector
from fusion_det.config.cli import load_settings
from fusion_det.config.tools import default_config_dir, get_tool

WORDS = [
    "data=coco",
    "data.image_size=64",
    "neck.channels=8",
    "head.num_convs=1",
    "head.score_threshold=0.0",
    "backbone.stem_width=8",
    "backbone.widths=[8,8,8,8]",
    "backbone.depths=[1,1,1,1]",
    "trainer.precision=fp32",
    "late_fusion.max_detections=20",
]


def tiny_state(root: Path, seed: int, words: Sequence[str] = ()) -> dict[str, Any]:
    """What ``save_checkpoint`` takes, for the data set of :func:`conftest.coco_root`; scores vary, so that every view finds something."""
    config = load_settings(get_tool("train"), [*WORDS, f"data.root={root}", f"seed={seed}", *words], default_config_dir()).plain()
    model = build_detector(config, 3, seed=seed)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.mul_(3)
    return {
        "config": config,
        "class_names": ["red", "green", "blue"],
        "category_ids": [0, 7, 90],
        "image_size": 64,
        "model": model.state_dict(),
        "ema": None,
    }
