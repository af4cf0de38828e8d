"""Average precision for any weights of the images, from detections ranked once. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RECALL_POINTS = np.linspace(0, 1, 101)
"""COCO's. Ten of them exceed k / 100 by one bit, such as 0.7: 7 found boxes of 10 do not reach it."""


@dataclass(frozen=True)
class RankedHits:
    """Detections of K classes sorted by class, then falling score, each a hit or not."""

    class_starts: np.ndarray
    """int64 [K + 1]: class k has the positions ``class_starts[k]`` to ``class_starts[k + 1]``."""
    image: np.ndarray
    """int64 [N] index of the image."""
    hits: np.ndarray
    """int64 [H]: positions of the hits, rising."""

    @classmethod
    def of(cls, label: np.ndarray, image: np.ndarray, hit: np.ndarray, classes: int) -> RankedHits:
        """From columns in the order of falling score, whatever the class; ``hit`` is bool [N]."""
        order = label.astype(np.int32).argsort(kind="stable")
        starts = np.searchsorted(label[order], np.arange(classes + 1))
        return cls(starts, image[order], np.flatnonzero(hit[order]))

    def average_precisions(
        self, positives: np.ndarray, weights: np.ndarray | None = None, recall_points: np.ndarray = RECALL_POINTS
    ) -> tuple[np.ndarray, np.ndarray]:
        """101-point AP of each class for one or more counts of ground truth, and the weight of each class's detections.

        ``positives``: integers [..., K], the boxes to be found, weighted like the images; ``weights``: integers [I], how often each
        image counts (a bootstrap resample), ``None`` for once. Returns float64 [..., K], NaN where ``positives`` is 0, and int64 [K].
        A resample with repeated images gives what the repeated images would; the order of equal scores stays that of the images.
        """
        weight = np.ones(len(self.image), np.int64) if weights is None else weights[self.image]
        before = np.concatenate([[0], weight.cumsum()])
        class_totals = np.diff(before[self.class_starts])
        label_of_hit = np.searchsorted(self.class_starts, self.hits, side="right") - 1
        found = np.concatenate([[0], weight[self.hits].cumsum()])
        hit_starts = np.searchsorted(self.hits, self.class_starts)
        base = found[hit_starts]  # hits of earlier classes; `found` never falls, so that one search serves all classes
        rank = before[self.hits + 1] - before[self.class_starts[label_of_hit]]
        hit_count = found[1:] - base[label_of_hit]
        precision = np.divide(hit_count, rank, out=np.zeros(len(rank)), where=rank > 0)
        curves = [
            _sampled(precision, found, hit_starts, hits_needed(row, recall_points)) for row in positives.reshape(-1, positives.shape[-1])
        ]
        area = np.reshape(curves, (*positives.shape, len(recall_points))).mean(axis=-1)
        return np.where(positives > 0, area, np.nan), class_totals


def _sampled(precision: np.ndarray, found: np.ndarray, hit_starts: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """float64 [K, 101]: the best precision at or beyond each recall point.

    Only hits are looked at, as every best precision is a hit's. ``found`` [H + 1] counts hits over all classes before each hit.
    """
    base, available = found[hit_starts[:-1], None], np.diff(found[hit_starts])[:, None]
    reached = (needed <= available) & (available > 0)
    position = np.where(reached, np.searchsorted(found[1:], base + np.maximum(needed, 1)), hit_starts[1:, None])
    # Positions never fall, so that each piece ends where the next point, or the next class, starts.
    pieces = np.maximum.reduceat(np.append(precision, 0.0), position.ravel()).reshape(position.shape)
    return np.maximum.accumulate(np.where(reached, pieces, 0.0)[:, ::-1], axis=1)[:, ::-1]


def hits_needed(positives: np.ndarray, recall_points: np.ndarray = RECALL_POINTS) -> np.ndarray:
    """int64 [..., 101]: the fewest hits h with h / positives >= the recall point, by that very division of floats."""
    counts = np.maximum(positives, 1)[..., None]
    needed = np.ceil(recall_points * counts).astype(np.int64)
    needed -= (needed - 1) / counts >= recall_points
    return needed + (needed / counts < recall_points)
