"""Greedy non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torchvision.ops import batched_nms

from fusion_det.structures import Detections, RawDetections


class NMS:
    """Keep the best box, drop those of its class that overlap it by more than ``iou_threshold``, repeat.

    All images (and classes, unless ``class_agnostic``) of the batch go through one ``torchvision.ops.batched_nms`` call; candidates of
    several sources compete with each other.
    """

    def __init__(
        self,
        *,
        iou_threshold: Annotated[float, Field(ge=0, le=1)],
        max_detections: PositiveInt,
        class_agnostic: bool,
    ) -> None:
        self.iou_threshold, self.max_detections, self.class_agnostic = iou_threshold, max_detections, class_agnostic

    def __call__(self, sources: Sequence[RawDetections]) -> Detections:
        """Candidates [B, N_s] of each source -> at most ``max_detections`` per image, by falling score."""
        merged, source = concatenate(sources)
        image, slot = merged.valid.nonzero(as_tuple=True)
        boxes, scores, labels = merged.boxes[image, slot], merged.scores[image, slot], merged.labels[image, slot]
        group = image if self.class_agnostic else image * (labels.max() + 1 if len(labels) else 1) + labels
        keep = batched_nms(boxes.float(), scores.float(), group, self.iou_threshold)  # by falling score over the whole batch
        keep = keep[image[keep].argsort(stable=True)]
        return pad_detections(merged, source, image[keep], slot[keep], self.max_detections)


def concatenate(sources: Sequence[RawDetections]) -> tuple[RawDetections, Tensor]:
    """All sources side by side as one ``RawDetections`` [B, sum of N_s], and the source index of each column [sum of N_s]."""
    if not sources:
        raise ValueError("late fusion: expected at least one source of detections, got none")
    names = ("boxes", "scores", "labels", "levels", "valid")
    merged = RawDetections(*(torch.cat([getattr(s, name) for s in sources], dim=1) for name in names))
    counts = torch.tensor([s.scores.shape[1] for s in sources], device=merged.scores.device)
    return merged, torch.repeat_interleave(torch.arange(len(sources), device=counts.device), counts)


def pad_detections(candidates: RawDetections, source: Tensor, image: Tensor, slot: Tensor, limit: int) -> Detections:
    """Chosen candidates (``image`` [K] ascending, ``slot`` [K] by falling score within an image) as padded detections."""
    batch = candidates.scores.shape[0]
    counts = torch.bincount(image, minlength=batch)
    rank = torch.arange(len(image), device=image.device) - (counts.cumsum(0) - counts)[image]
    inside = rank < limit
    image, slot, rank = image[inside], slot[inside], rank[inside]
    width = int(counts.clamp(max=limit).max()) if len(image) else 0

    def placed(values: Tensor) -> Tensor:
        out = values.new_zeros((batch, width, *values.shape[1:]))
        out[image, rank] = values
        return out

    return Detections(
        boxes=placed(candidates.boxes[image, slot]),
        scores=placed(candidates.scores[image, slot]),
        labels=placed(candidates.labels[image, slot]),
        levels=placed(candidates.levels[image, slot]),
        sources=placed(source[slot]),
        valid=placed(torch.ones_like(image, dtype=torch.bool)),
    )
