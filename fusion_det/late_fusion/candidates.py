"""The valid candidates of a batch as plain columns, in an order that does not depend on the order in which they came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from fusion_det.structures import Detections, RawDetections


@dataclass(frozen=True)
class Candidates:
    """K candidates of all images and sources; boxes ``xyxy`` in whatever frame the sources share."""

    images: Tensor
    """int64 [K]: position of the image in the batch."""
    boxes: Tensor
    """float [K, 4]."""
    scores: Tensor
    """float [K], times the weight of the source."""
    labels: Tensor
    """int64 [K]."""
    levels: Tensor
    """int64 [K]: index of the level that fired."""
    sources: Tensor
    """int64 [K]: index of the source."""

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Tensor) -> Candidates:
        """The candidates at ``rows`` (int64 [n]), in that order."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def gather(sources: Sequence[RawDetections], weights: Tensor | None = None) -> Candidates:
    """The valid candidates of ``sources`` (each [B, N_s], one B), at least in float32; scores times the ``weights`` [S], if given."""
    if len(batches := {len(source.scores) for source in sources}) > 1:
        raise ValueError(f"late fusion: expected sources of one batch size, got {sorted(batches)}")
    parts = []
    for index, source in enumerate(sources):
        image, slot = source.valid.nonzero(as_tuple=True)
        scores = _at_least_float32(source.scores[image, slot])
        parts.append(
            Candidates(
                images=image,
                boxes=_at_least_float32(source.boxes[image, slot]),
                scores=scores if weights is None else scores * weights[index],
                labels=source.labels[image, slot],
                levels=source.levels[image, slot],
                sources=torch.full_like(image, index),
            )
        )
    return Candidates(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Candidates)))


def ranked(candidates: Candidates, group: Tensor) -> Tensor:
    """int64 [K]: rows by ``group`` (int64 [K]), and by falling score within a group.

    Equal scores are ordered by what the candidates are (corners, label, level, source), never by where they stood: shuffled candidates,
    and batches put together otherwise, give the same detections.
    """
    order = candidates.scores.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    scores, groups = candidates.scores[order], group[order]
    if ((scores[1:] == scores[:-1]) & (groups[1:] == groups[:-1])).any():
        corners = candidates.boxes.contiguous().view(torch.int64).unbind(1)  # bit patterns: any fixed order will do, and two fit one key
        order = torch.arange(len(candidates), device=group.device)
        for key in (candidates.sources, candidates.levels, candidates.labels, *corners, -candidates.scores, group):
            order = order[key[order].argsort(stable=True)]
    return order


def pad(candidates: Candidates, batch: int, limit: int) -> Detections:
    """The best ``limit`` candidates of each of the ``batch`` images as padded detections; equal scores keep their order."""
    order = candidates.scores.argsort(descending=True, stable=True)
    order = order[candidates.images[order].argsort(stable=True)]
    images = candidates.images[order]
    counts = torch.bincount(images, minlength=batch)
    rank = torch.arange(len(images), device=counts.device) - (counts.cumsum(0) - counts)[images]
    inside = rank < limit
    chosen, rank = candidates.take(order[inside]), rank[inside]
    width = int(counts.clamp(max=limit).max()) if len(chosen) else 0

    def placed(values: Tensor) -> Tensor:
        out = values.new_zeros((batch, width, *values.shape[1:]))
        out[chosen.images, rank] = values
        return out

    return Detections(
        boxes=placed(chosen.boxes),
        scores=placed(chosen.scores),
        labels=placed(chosen.labels),
        levels=placed(chosen.levels),
        sources=placed(chosen.sources),
        valid=placed(torch.ones_like(rank, dtype=torch.bool)),
    )


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
