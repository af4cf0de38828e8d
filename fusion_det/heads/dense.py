"""What dense one-stage heads share: initial weights, flattening, and the choice of candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fusion_det.structures import LevelSpec, RawDetections, check_levels


def check_head(levels: Sequence[LevelSpec], num_classes: int, *, owner: str, one_per_stride: bool = False) -> tuple[LevelSpec, ...]:
    """Levels as a tuple, or a ``ValueError`` if they cannot be (:func:`fusion_det.structures.check_levels`) or there is no class."""
    if num_classes < 1:
        raise ValueError(f"{owner}: expected at least one class, got {num_classes}")
    return check_levels(levels, owner=owner, one_per_stride=one_per_stride)


def shared_width(levels: Sequence[LevelSpec], *, owner: str) -> int:
    """The channel count of all levels, or a ``ValueError`` if they differ, since one set of towers serves them all."""
    if any(level.channels != levels[0].channels for level in levels):
        widths = ", ".join(f"{level.name} {level.channels}" for level in levels)
        raise ValueError(f"{owner}: its towers are shared, so all levels need one width (neck.widths=null), got {widths} channels")
    return levels[0].channels


def prior_bias(probability: float) -> float:
    """The bias at which a sigmoid gives ``probability`` (RetinaNet, section 4.1)."""
    return -math.log((1 - probability) / probability)


def init_normal(conv: nn.Conv2d, bias: float = 0.0) -> nn.Conv2d:
    """Normal weights (std 0.01), constant bias."""
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.constant_(conv.bias, bias)
    return conv


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """Maps [B, K, H_i, W_i] of all levels -> [B, sum of H_i * W_i, K], row-major, level after level."""
    return torch.cat([m.permute(0, 2, 3, 1).flatten(1, 2) for m in maps], dim=1)


def flatten_anchors(maps: Sequence[Tensor], columns: int) -> Tensor:
    """Maps [B, shapes * K, H_i, W_i] of all levels, K = ``columns`` -> [B, sum of H_i * W_i * shapes, K], as anchors are ordered."""
    return torch.cat([m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, columns) for m in maps], dim=1)


def choose_candidates(
    boxes: Tensor, scores: Tensor, counts: Sequence[int], sizes: Tensor, *, score_threshold: float, per_level: int
) -> RawDetections:
    """The best ``per_level`` (point, class) pairs of each level, as padded tensors without any host sync.

    ``boxes`` [B, P, 4] xyxy in the network frame, ``scores`` [B, P, C], ``counts``: points per level (their sum is P),
    ``sizes`` [B, 2] (h, w) to clip to.
    """
    classes = scores.shape[2]
    parts, start = [], 0
    for level, count in enumerate(counts):
        flat = scores[:, start : start + count].flatten(1)  # [B, count * C]
        top, index = flat.topk(min(per_level, flat.shape[1]), dim=1)
        points = start + index // classes
        parts.append((boxes.gather(1, points[..., None].expand(-1, -1, 4)), top, index % classes, torch.full_like(points, level)))
        start += count
    chosen, top, labels, fired = (torch.cat(column, dim=1) for column in zip(*parts, strict=True))
    return _candidates(chosen, top, labels, fired, sizes, score_threshold)


def choose_per_class(
    boxes: Tensor, scores: Tensor, levels: Tensor, sizes: Tensor, *, score_threshold: float, per_class: int
) -> RawDetections:
    """The best ``per_class`` anchors of each class over all levels, as SSD has it: the same padded tensors.

    ``boxes`` [B, A, 4] xyxy in the network frame, ``scores`` [B, A, C], ``levels`` [A]: level of each anchor, ``sizes`` [B, 2] (h, w) to
    clip to. Gives C * min(``per_class``, A) candidates.
    """
    top, index = scores.transpose(1, 2).topk(min(per_class, scores.shape[1]), dim=2)  # [B, C, K]
    labels = torch.arange(scores.shape[2], device=scores.device)[:, None].expand_as(index).flatten(1)
    anchor = index.flatten(1)
    chosen = boxes.gather(1, anchor[..., None].expand(-1, -1, 4))
    return _candidates(chosen, top.flatten(1), labels, levels[anchor], sizes, score_threshold)


def _candidates(boxes: Tensor, scores: Tensor, labels: Tensor, levels: Tensor, sizes: Tensor, score_threshold: float) -> RawDetections:
    limits = sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)
    # Not "over the threshold": a score that is not a number must go on to where it is refused, instead of vanishing here.
    valid = ~(scores <= score_threshold)
    return RawDetections(torch.minimum(boxes.clamp(min=0), limits), scores, labels, levels, valid)
