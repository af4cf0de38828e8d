"""What each point or anchor of a padded batch is to learn. Legend: B images, A points or anchors of all levels, G padded objects."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fusion_det.boxes import chunk_size
from fusion_det.structures import Targets


class Assignment(NamedTuple):
    """What each point or anchor is to learn."""

    labels: Tensor
    """int64 [B, A]: class index, or -1 for background."""
    boxes: Tensor
    """float32 [B, A, 4] xyxy of the assigned object in the network frame; zeros for background."""
    ignored: Tensor
    """bool [B, A]: neither an object nor background: teaches nothing."""


def assign_objects(index: Tensor, ignored: Tensor, targets: Targets) -> Assignment:
    """Labels and boxes of the objects of slot ``index`` [B, A] (negative: none); ``ignored`` [B, A] holds only where there is none."""
    positive = index >= 0
    slot = index.clamp(min=0)
    labels = torch.where(positive, targets.labels.gather(1, slot), -1)
    boxes = targets.boxes.gather(1, slot[..., None].expand(-1, -1, 4)) * positive[..., None]
    return Assignment(labels, boxes, ignored & ~positive)


def inside_crowds(points: Tensor, targets: Targets) -> Tensor:
    """Which of ``points`` [A, 2] (x, y; network frame) lie inside a crowd region -> bool [B, A]."""
    box = targets.boxes[..., None, :]  # [B, G, 1, 4]
    parts = []
    for part in points.split(chunk_size(targets.labels.numel(), points.device)):
        x, y = part[:, 0], part[:, 1]
        inside = (x > box[..., 0]) & (y > box[..., 1]) & (x < box[..., 2]) & (y < box[..., 3])  # [B, G, chunk]
        parts.append((inside & targets.crowd[..., None]).any(dim=1))
    return torch.cat(parts, dim=1)
