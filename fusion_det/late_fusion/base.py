"""What all late fusions share: grouping candidates per image and class, optionally per level first, and the bookkeeping around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from fusion_det.late_fusion.candidates import Candidates, gather, pad, ranked
from fusion_det.structures import Detections, RawDetections


class Groups(NamedTuple):
    """G groups of candidates that compete with each other (those of one image and class), padded to M, by falling score."""

    boxes: Tensor
    """float [G, M, 4] xyxy; padding is zero."""
    scores: Tensor
    """float [G, M], falling; padding is zero."""
    valid: Tensor
    """bool [G, M]."""
    sources: Tensor
    """int64 [G, M]: index into ``weights``."""
    weights: Tensor
    """float [S]: the weights of the sources, the largest is 1; scores are multiplied by them already."""
    most: int
    """More than so many detections of a group are never used."""


class LateFusion:
    """A late fusion is one :meth:`fuse`, which treats all groups of a batch at once.

    Common keys. ``max_detections``: kept per image. ``class_agnostic``: boxes of different classes compete too (a fused box has the
    label of its best member). ``per_level``: first inside each pyramid level of each source, then over all levels and sources.

    Levels and sources. A detection keeps the level and source of the candidate that stands for it: the best-scoring one of those it is
    made of. ``weights`` of the sources multiply their scores, the largest counting as 1.
    """

    def __init__(self, *, max_detections: int, class_agnostic: bool, per_level: bool) -> None:
        self.max_detections, self.class_agnostic, self.per_level = max_detections, class_agnostic, per_level

    def fuse(self, groups: Groups) -> Groups:
        """``groups`` with ``valid`` only where a detection stands; its box and score are final. Slots never move."""
        raise NotImplementedError

    def __call__(self, sources: Sequence[RawDetections], weights: Sequence[float] | None = None) -> Detections:
        """Candidates [B, N_s] of each source, all in one frame -> at most ``max_detections`` per image, by falling score.

        ``weights``: one positive number per source; ``None``: all count the same.
        """
        if not sources:
            raise ValueError("late fusion: expected at least one source of detections, got none")
        given = _check_weights(weights, sources)
        with torch.autocast(sources[0].scores.device.type, enabled=False):  # sums of boxes in bf16 would be off by pixels
            return self._detections(sources, given)

    def _detections(self, sources: Sequence[RawDetections], given: Tensor | None) -> Detections:
        found = gather(sources, given)
        if self.per_level:
            # Inside one level there is one source: its own share is complete, whatever the others do.
            alone = replace(found, sources=torch.zeros_like(found.sources))
            rows, inside = self._fuse_all(alone, _group(found, found.levels, found.sources, *self._class(found)), None, len(found))
            found = replace(inside, sources=found.sources[rows])
        _, found = self._fuse_all(found, _group(found, *self._class(found)), given, self.max_detections, sources=len(sources))
        return pad(found, len(sources[0].scores), self.max_detections)

    def _class(self, candidates: Candidates) -> tuple[Tensor, ...]:
        return () if self.class_agnostic else (candidates.labels,)

    def _fuse_all(
        self, candidates: Candidates, group: Tensor, weights: Tensor | None, most: int, sources: int = 1
    ) -> tuple[Tensor, Candidates]:
        """The rows of the candidates that stand for a detection, and the detections, group after group."""
        if not len(candidates):
            return group, candidates
        order = ranked(candidates, group)
        weights = candidates.scores.new_ones(sources) if weights is None else weights
        kept, boxes, scores = [], [], []
        for slots, valid in _padded(group[order]):
            rows = order[slots]
            fused = self.fuse(
                Groups(
                    boxes=candidates.boxes[rows].masked_fill_(~valid[..., None], 0),
                    scores=candidates.scores[rows].masked_fill_(~valid, 0),
                    valid=valid,
                    sources=candidates.sources[rows],
                    weights=weights,
                    most=most,
                )
            )
            stands = fused.valid & valid
            kept.append(slots[stands])
            boxes.append(fused.boxes[stands])
            scores.append(fused.scores[stands])
        slots = torch.cat(kept)
        back = slots.argsort()  # groups of one size were treated together; this is their order again
        rows = order[slots[back]]
        return rows, replace(candidates.take(rows), boxes=torch.cat(boxes)[back], scores=torch.cat(scores)[back])


def _group(candidates: Candidates, *keys: Tensor) -> Tensor:
    """int64 [K]: a number for each combination of image and ``keys``, which grows with the image first."""
    group = candidates.images
    for key in keys:
        group = group * (int(key.max()) + 1 if len(key) else 1) + key
    return group


def _padded(groups: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Slots (int64 [G, M]) and ``valid`` (bool [G, M]) of the groups (``groups`` int64 [K], sorted), groups of a similar size at once.

    Sizes within a factor of two are padded to the largest: a class with a thousand candidates does not widen the others.
    """
    counts = groups.unique_consecutive(return_counts=True)[1]
    starts = counts.cumsum(0) - counts
    sizes = counts.float().log2().ceil().int()
    for size in sizes.unique().tolist():
        members = (sizes == size).nonzero()[:, 0]
        ranks = torch.arange(int(counts[members].max()), device=groups.device)
        valid = ranks < counts[members, None]
        yield (starts[members, None] + ranks).clamp_(max=len(groups) - 1), valid


def _check_weights(weights: Sequence[float] | None, sources: Sequence[RawDetections]) -> Tensor | None:
    """The weights as a tensor on the sources' device, the largest being 1."""
    if weights is None:
        return None
    if len(weights) != len(sources) or not all(0 < weight < float("inf") for weight in weights):
        raise ValueError(f"late fusion: expected {len(sources)} positive weights, one per source, got {list(weights)}")
    scores = sources[0].scores
    given = torch.tensor(list(weights), dtype=torch.promote_types(scores.dtype, torch.float32), device=scores.device)
    return given / given.max()
