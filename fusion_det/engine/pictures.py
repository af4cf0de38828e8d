"""Pictures for the log: what the network is fed, and what it finds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusion_det.data.coco_index import CocoIndex
from fusion_det.data.images import read_image
from fusion_det.structures import ImageBatch, Targets
from fusion_det.visualize import draw_boxes, grid, side_by_side

DRAWN_SCORE = 0.3
"""Detections under this score are not drawn."""


def training_batch(images: ImageBatch, targets: Targets, class_names: Sequence[str], *, limit: int = 16) -> Tensor:
    """The first pictures of a batch, after augmentation, with their targets: uint8 [3, H, W]. Crowd regions are marked."""
    pictures = []
    for i in range(min(limit, len(images))):
        kept = targets.valid[i] | targets.crowd[i]
        pictures.append(
            draw_boxes(images.pixels[i], targets.boxes[i][kept], targets.labels[i][kept], class_names, crowd=targets.crowd[i][kept])
        )
    return grid(pictures)


def spread(index: CocoIndex, count: int) -> list[int]:
    """Positions of ``count`` pictures spread evenly over the set: the ones that are drawn."""
    return np.linspace(0, len(index) - 1, min(count, len(index)), dtype=int).tolist()


def validation_samples(index: CocoIndex, results: Sequence[dict[str, Any]], *, count: int) -> Iterator[tuple[str, Tensor]]:
    """Ground truth beside the detections (COCO results) of ``count`` pictures spread evenly over the set: (tag, uint8 [3, H, W])."""
    rank = {category_id: label for label, category_id in enumerate(index.category_ids)}
    for number, image in enumerate(spread(index, count)):
        found = [r for r in results if r["image_id"] == index.image_ids[image] and r["score"] >= DRAWN_SCORE]
        xywh = torch.tensor([r["bbox"] for r in found]).reshape(-1, 4)
        pixels, (boxes, labels, crowd) = read_image(index.path(image)), index.targets(image)
        truth = draw_boxes(pixels, torch.from_numpy(boxes), torch.from_numpy(labels), index.class_names, crowd=torch.from_numpy(crowd))
        detected = draw_boxes(
            pixels,
            torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1),
            torch.tensor([rank[r["category_id"]] for r in found], dtype=torch.int64),
            index.class_names,
            scores=torch.tensor([r["score"] for r in found]),
        )
        yield f"val/sample_{number}", side_by_side(truth, detected)
