"""A foreign detector as one of our checkpoints, for ``tools/evaluate.py`` and ``tools/predict.py``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torchvision.models import get_model_weights

from fusion_det.build import build_detector
from fusion_det.config.cli import load_settings
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.convert.load_report import LoadReport
from fusion_det.convert.torchvision_models import MODELS, split_source
from fusion_det.convert.torchvision_weights import load_torchvision
from fusion_det.engine.checkpoint import save_checkpoint
from fusion_det.errors import CheckpointError


def save_converted(source: str, path: str | Path, *, overrides: Sequence[str] = (), image_size: int | None = None) -> LoadReport:
    """Write the checkpoint ``path`` of torchvision's detector ``source`` (see :func:`load_torchvision`) for COCO's 80 classes.

    ``overrides`` are further words of ``tools/train.py``, such as ``late_fusion=soft_nms``; ``image_size`` is the long side that pictures
    are resized to (``None``: what comes closest to torchvision). A tensor without a value or place raises ``CheckpointError``: that would
    be another detector.
    """
    name, _ = split_source(source, where="source")
    model = MODELS[name]
    names = get_model_weights(name).DEFAULT.meta["categories"]
    ids = [index for index, category in enumerate(names) if index and category != "N/A"]
    class_names = [names[index] for index in ids]
    shapes = model.shapes.split() if image_size is None else [f"data.image_size={image_size}"]
    words = [*model.words.split(), "experiment=null", "data=coco", "data.root=.", *shapes, *overrides]
    config: dict[str, Any] = load_settings(get_tool("train"), words, default_config_dir()).plain()
    detector = build_detector(config, len(class_names), seed=config["seed"], load_pretrained=False)
    report = load_torchvision(detector, source, class_names=class_names, where="source")
    if not report.whole:
        raise CheckpointError("; ".join(report.lines()[1:]), where=source, mend="leave out overrides that change the network")
    state = {
        "model": detector.state_dict(),
        "ema": None,
        "config": config,
        "class_names": class_names,
        "category_ids": ids,
        "image_size": config["data"]["image_size"],
        "level_names": [level.name for level in detector.head.levels],  # type: ignore[union-attr]
        "versions": {package: version(package) for package in ("fusion-det", "torch", "torchvision", "timm")},
    }
    save_checkpoint(path, state)
    return report
