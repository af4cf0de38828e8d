"""``start.json``: what a run started from, as hashes and counts, so that a comparison can prove which runs began alike.

Two runs of one seed share the data order, the augmentation draws, and the initial weights of backbone and head, whatever their necks;
equal hashes show it, and unequal ones show where a comparison is not paired.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fusion_det.build import PARTS
from fusion_det.config.files import write_json
from fusion_det.config.run_folder import START
from fusion_det.data.order import epoch_batches
from fusion_det.data.sources import DataSource
from fusion_det.engine.device import hardware_of
from fusion_det.structures import ImageBatch, Targets

FORMAT = 1


def write_start(
    folder: Path,
    *,
    model: nn.Module,
    source: DataSource,
    first_batch: tuple[ImageBatch, Targets],
    seed: int,
    bucket_of_image: Any,
    steps: int,
) -> None:
    """Write ``start.json`` before the first step; ``first_batch`` is the augmented one that the first step sees, on any device."""
    images, targets = first_batch
    order = epoch_batches(bucket_of_image, len(images), seed, 0)
    write_json(
        folder / START,
        {
            "format": FORMAT,
            "steps": steps,
            "images": {"train": len(source.train), "val": len(source.val)},
            "data": {"train": source.train.digest, "val": source.val.digest},
            "annotations": str(source.val.annotation_file),
            "pictures": str(source.val.image_dir),
            "class_names": list(source.train.class_names),
            "category_ids": list(source.train.category_ids),
            "hardware": hardware_of(next(model.parameters()).device),
            "weights": {part: _hash_of(getattr(model, part).state_dict().items()) for part in PARTS},
            "shapes": {part: _text_hash([(k, tuple(v.shape)) for k, v in getattr(model, part).state_dict().items()]) for part in PARTS},
            "order": _text_hash(order),
            "first_batch": _hash_of(
                {"images": images.pixels, "boxes": targets.boxes, "labels": targets.labels, "valid": targets.valid}.items()
            ),
        },
    )


def _hash_of(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, shapes and bytes."""
    sha = hashlib.sha256()
    for name, tensor in tensors:
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _text_hash(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()
