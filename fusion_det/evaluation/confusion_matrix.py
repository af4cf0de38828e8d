"""Which class is taken for which, at one score threshold. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fusion_det.evaluation.box_metrics import printable
from fusion_det.evaluation.overlaps import Overlaps, best_pair, match_in_order


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """Boxes and detections of K classes, counted by pairs; index K is the background."""

    category_names: tuple[str, ...]
    counts: np.ndarray
    """int64 [K + 1, K + 1], row = class of the box, column = class of the detection. Row K: detections of nothing; column K: boxes that
    nothing found; the corner is 0. A row of a class sums to its boxes, a column to its detections that are not ignored."""
    repeats: np.ndarray
    """int64 [K, K]: those detections of nothing whose best box (row: its class) reaches the IoU, but is another detection's."""
    score_threshold: float
    iou_threshold: float
    ignored: int
    """Detections that were left out, as they lie in a crowd of their class."""

    def as_dict(self) -> dict[str, Any]:
        """Plain containers for a JSON file; the last row and column are the background."""
        return {
            "classes": list(self.category_names),
            "rows": "boxes, then background",
            "columns": "detections, then background",
            "score_threshold": self.score_threshold,
            "iou_threshold": self.iou_threshold,
            "ignored": self.ignored,
            "counts": self.counts.tolist(),
            "repeats": self.repeats.tolist(),
        }

    def confusions(self) -> list[tuple[str, str, int, int]]:
        """(class of the box, other class of the detection, boxes taken for it, boxes found and called that as well).

        Most frequent first; zeros left out. The last number counts detections, of which a box may have several.
        """
        taken, also = self.counts[:-1, :-1].copy(), self.repeats.copy()
        for table in (taken, also):
            np.fill_diagonal(table, 0)
        rows, columns = np.nonzero(taken + also)
        order = np.argsort(-(taken + also)[rows, columns], kind="stable")
        names = self.category_names
        return [(names[r], names[c], int(taken[r, c]), int(also[r, c])) for r, c in zip(rows[order], columns[order], strict=True)]

    def table(self, *, limit: int = 10) -> str:
        """Totals, and the most frequent confusions."""
        right, boxes, same = int(np.trace(self.counts)), int(self.counts[:-1].sum()), int(np.trace(self.repeats))
        lines = [
            f"at score >= {self.score_threshold:.3g} and IoU >= {self.iou_threshold:g}, of {boxes} boxes: {right} found, "
            f"{int(self.counts[:-1, :-1].sum()) - right} taken for another class, {int(self.counts[:-1, -1].sum())} not found;",
            f"other detections: {same} more of boxes that are found, {int(self.repeats.sum()) - same} of such boxes with another class, "
            f"{int(self.counts[-1].sum() - self.repeats.sum())} of nothing",
        ]
        pairs = self.confusions()
        lines += [f"  {printable(box)} taken for {printable(found)}: {n}, also called so: {m}" for box, found, n, m in pairs[:limit]]
        return "\n".join(lines + ([f"  and {len(pairs) - limit} more pairs of classes"] if len(pairs) > limit else []))


def confusion_matrix(overlaps: Overlaps, *, score_threshold: float, iou_threshold: float = 0.5) -> ConfusionMatrix:
    """Each box and each detection with a score of at least ``score_threshold`` counted once.

    1. In each image the detections choose in the order of falling score, each the free box *of its class* with the largest IoU, if that is
       at least ``iou_threshold``. So the diagonal holds the true positives of AP at this threshold.
    2. Detections still without a box, but with more than ``iou_threshold`` of their area in a crowd of their class, are ignored.
    3. The others choose in the same way among the boxes that are still free, of any class.
    4. What is left is background: detections of nothing, boxes not found. Those detections that lie on a box of another detection are
       told apart in ``repeats``.
    """
    if not overlaps.minimum_iou <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold: expected {overlaps.minimum_iou} (minimum_iou) to 1, got {iou_threshold}")
    classes = len(overlaps.category_ids)
    kept = overlaps.score >= score_threshold
    near = (overlaps.pair_iou >= iou_threshold) & kept[overlaps.pair_detection]
    matched = _match(overlaps, near & overlaps.pair_same)
    ignored = kept & (matched < 0) & (overlaps.crowd_share > iou_threshold)
    taken = np.zeros(len(overlaps.box_image), dtype=bool)
    taken[matched[matched >= 0]] = True
    left = near & (matched < 0)[overlaps.pair_detection] & ~ignored[overlaps.pair_detection] & ~taken[overlaps.pair_box]
    matched = np.maximum(matched, _match(overlaps, left))
    taken[matched[matched >= 0]] = True

    counts = np.zeros((classes + 1, classes + 1), np.int64)
    counted = kept & ~ignored
    box_label = np.append(overlaps.box_label, classes)[matched[counted]]  # -1 is the last: background
    np.add.at(counts, (box_label, overlaps.label[counted]), 1)
    counts[:classes, classes] = np.bincount(overlaps.box_label[~taken], minlength=classes)
    _, nearest = best_pair(overlaps, near)
    again = counted & (matched < 0) & (nearest >= 0)
    repeats = np.zeros((classes, classes), np.int64)
    np.add.at(repeats, (overlaps.box_label[nearest[again]], overlaps.label[again]), 1)
    return ConfusionMatrix(overlaps.category_names, counts, repeats, float(score_threshold), float(iou_threshold), int(ignored.sum()))


def _match(overlaps: Overlaps, chosen: np.ndarray) -> np.ndarray:
    return match_in_order(overlaps.pair_detection[chosen], overlaps.pair_box[chosen], overlaps.pair_iou[chosen], len(overlaps))
