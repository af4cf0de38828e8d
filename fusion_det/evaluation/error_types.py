"""TIDE: why a detector loses AP, as the AP it would gain if one type of error were put right.

Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020, section 2. NumPy only.
Pinned to the numbers of tidecv 1.0.1. Deviations from it: AP is the mean over the classes with boxes, recall points are COCO's, gains below
0 are kept (``as_tidecv`` takes these three back), and equal scores stay in one order, by image and then as they came, where tidecv puts all
errors before the correct ones once a type is put right.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fusion_det.evaluation.overlaps import Overlaps, best_pair, match_in_order
from fusion_det.evaluation.ranked_hits import RECALL_POINTS, RankedHits

ERROR_TYPES = ("classification", "localisation", "both", "duplicate", "background", "missed")
SPECIAL_TYPES = ("false_positive", "false_negative")
TIDECV_RECALL_POINTS = np.arange(101) / 100
CORRECT = -1
_CLASSIFICATION, _LOCALISATION, _BOTH, _DUPLICATE, _BACKGROUND = range(5)
FOUND, COVERED, MISSED = range(3)
"""States of a box: matched; not matched, but a classification or localisation error aims at it; neither."""


@dataclass(frozen=True)
class ErrorTable:
    """What each of N detections and G boxes is. AP for any weights of the images follows without matching again."""

    overlaps: Overlaps
    foreground_iou: float
    background_iou: float
    kind: np.ndarray
    """int8 [N]: :data:`CORRECT`, or the position in :data:`ERROR_TYPES`."""
    ignored: np.ndarray
    """bool [N]: not matched and inside a crowd of its class: no false positive, whatever its kind."""
    target: np.ndarray
    """int64 [N]: box that it matches (correct), should have matched (classification, localisation) or repeats (duplicate); else -1."""
    mends: np.ndarray
    """bool [N]: a classification or localisation error that would find its box if put right: the best-scoring one at a free box."""
    box_state: np.ndarray
    """int8 [G]: :data:`FOUND`, :data:`COVERED` or :data:`MISSED`."""

    def counts(self) -> dict[str, int]:
        """Number of correct detections, of errors of each type, and of ignored detections, which are in no other number."""
        kinds = np.bincount(self.kind[~self.ignored] + 1, minlength=len(ERROR_TYPES))
        missed = int((self.box_state == MISSED).sum())
        return (
            {"correct": int(kinds[0])}
            | dict(zip(ERROR_TYPES, [*kinds[1:6].tolist(), missed], strict=True))
            | {"ignored": int(self.ignored.sum())}
        )

    def average_precisions(self, weights: np.ndarray | None = None, *, as_tidecv: bool = False) -> dict[str, np.ndarray]:
        """AP of each class, float64 [K] in 0..1, under ``"as_is"`` and with each of the eight types put right; NaN is undefined.

        ``weights``: integers [I], how often each image counts, in the order of ``overlaps.image_ids``; ``None`` for once each.
        A class without boxes is NaN. A class whose boxes are all taken away by the repair of missed boxes is 0 while it has detections,
        then NaN, as in tidecv. ``as_tidecv``: see :meth:`delta_ap`.
        """
        weights = _checked(weights, len(self.overlaps.image_ids))
        points = TIDECV_RECALL_POINTS if as_tidecv else RECALL_POINTS
        boxes = self._boxes(weights, np.ones(len(self.box_state), dtype=bool))
        without_missed, only_found = (self._boxes(weights, chosen) for chosen in (self.box_state != MISSED, self.box_state == FOUND))
        three = np.stack([boxes, without_missed, only_found])
        (as_is, missed, negative), all_totals = self._ranked["as_is"].average_precisions(three, weights, points)
        areas = {"as_is": (as_is, all_totals), "missed": (missed, all_totals), "false_negative": (negative, all_totals)}
        for name in (*ERROR_TYPES[:5], "false_positive"):
            area, totals = self._ranked[name].average_precisions(boxes, weights, points)
            areas[name] = (area, all_totals if name == "false_positive" else totals)  # tidecv scores false positives 0, and keeps them
        present = (boxes > 0) | as_tidecv
        return {name: np.where(np.isnan(area) & (totals > 0) & present, 0.0, area) for name, (area, totals) in areas.items()}

    def delta_ap(self, weights: np.ndarray | None = None, *, as_tidecv: bool = False) -> dict[str, float]:
        """``"AP"`` and the gain in it by each of the eight types, in 0..1; NaN if there is nothing to measure.

        AP is the mean over the classes with boxes, as in COCO. The gains do not add up to 1 - AP: each is alone. A gain can be a
        little below 0, as putting right the boxes changes which hits the 101 recall points fall on.

        ``as_tidecv`` gives tidecv's numbers where no scores are equal: classes with detections, but no boxes, count as 0, the gains of the
        six main types are at least 0, and recall points are k / 100, ten of which lie one bit below COCO's.
        """
        areas = self.average_precisions(weights, as_tidecv=as_tidecv)
        means = {name: _mean(values) for name, values in areas.items()}
        gains = {name: means[name] - means["as_is"] for name in (*ERROR_TYPES, *SPECIAL_TYPES)}
        if as_tidecv:
            gains |= {name: max(gains[name], 0.0) for name in ERROR_TYPES}
        return {"AP": means["as_is"]} | gains

    def replicates(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """:meth:`delta_ap` for each row of ``weights``, integers [R, I] (resamples of the images): float64 [R] by name."""
        rows = [self.delta_ap(row) for row in weights]
        return {name: np.array([row[name] for row in rows]) for name in ("AP", *ERROR_TYPES, *SPECIAL_TYPES)}

    def _boxes(self, weights: np.ndarray | None, chosen: np.ndarray) -> np.ndarray:
        """int64 [K]: weighted number of the ``chosen`` boxes."""
        label, image = self.overlaps.box_label[chosen], self.overlaps.box_image[chosen]
        numbers = np.bincount(label, weights=None if weights is None else weights[image], minlength=len(self.overlaps.category_ids))
        return numbers.astype(np.int64)

    @cached_property
    def _ranked(self) -> dict[str, RankedHits]:
        """The detections that count, with one type of error after another put right."""
        hit, counts = self.kind == CORRECT, ~self.ignored
        ranked = {"as_is": self._rank(counts, hit), "false_positive": self._rank(hit, hit)}
        for kind, name in enumerate(ERROR_TYPES[:5]):
            wrong = self.kind == kind
            put_right = wrong & self.mends
            ranked[name] = self._rank(counts & ~wrong | put_right, hit | put_right, put_right if kind == _CLASSIFICATION else None)
        return ranked

    def _rank(self, chosen: np.ndarray, hit: np.ndarray, relabelled: np.ndarray | None = None) -> RankedHits:
        label = self.overlaps.label
        if relabelled is not None:
            label = label.copy()
            label[relabelled] = self.overlaps.box_label[self.target[relabelled]]
        order = self._by_score[chosen[self._by_score]]
        return RankedHits.of(label[order], self.overlaps.image[order], hit[order], len(self.overlaps.category_ids))

    @cached_property
    def _by_score(self) -> np.ndarray:
        return np.argsort(-self.overlaps.score, kind="stable")


def find_errors(overlaps: Overlaps, *, foreground_iou: float = 0.5, background_iou: float = 0.1) -> ErrorTable:
    """Match detections and boxes, and give each detection that matches none its type of error.

    In each image the detections choose in the order of falling score, each the free box of its class with the largest IoU, if that is at
    least ``foreground_iou``. For the others the first that holds:

    - no box in the image: background;
    - largest IoU with boxes of its class (free or not) from ``background_iou`` to ``foreground_iou``: localisation;
    - largest IoU with boxes of other classes at least ``foreground_iou``: classification;
    - IoU with a box of its class at least ``foreground_iou``: duplicate;
    - largest IoU with any box at most ``background_iou``: background; else both.

    A detection that matches no box and has more than ``foreground_iou`` of its area in a crowd of its class is ignored; as in tidecv it
    may still be the error that would find a box.
    """
    if not overlaps.minimum_iou <= background_iou <= foreground_iou <= 1:
        expected = f"{overlaps.minimum_iou} (minimum_iou) <= background_iou <= foreground_iou <= 1"
        raise ValueError(f"expected {expected}, got {background_iou} and {foreground_iou}")
    same = overlaps.pair_same
    chosen = same & (overlaps.pair_iou >= foreground_iou)
    matched = match_in_order(overlaps.pair_detection[chosen], overlaps.pair_box[chosen], overlaps.pair_iou[chosen], len(overlaps))
    best_same, same_box = best_pair(overlaps, same)
    best_other, other_box = best_pair(overlaps, ~same)
    conditions = {
        CORRECT: matched >= 0,
        _LOCALISATION: (background_iou <= best_same) & (best_same <= foreground_iou),
        _CLASSIFICATION: best_other >= foreground_iou,
        _DUPLICATE: best_same >= foreground_iou,
        _BACKGROUND: np.maximum(best_same, best_other) <= background_iou,
    }
    kind = np.select(list(conditions.values()), list(conditions), default=_BOTH).astype(np.int8)
    targets = {CORRECT: matched, _LOCALISATION: same_box, _CLASSIFICATION: other_box, _DUPLICATE: same_box}
    target = np.select([kind == name for name in targets], list(targets.values()), default=-1)

    found = np.zeros(len(overlaps.box_image), dtype=bool)
    found[matched[matched >= 0]] = True
    aims = np.flatnonzero(np.isin(kind, (_LOCALISATION, _CLASSIFICATION)))
    aims = aims[~found[target[aims]]]
    covered, first = np.unique(target[aims], return_index=True)  # the first at a box scores best, as all are in its image
    mends = np.zeros(len(overlaps), dtype=bool)
    mends[aims[first]] = True
    box_state = np.where(found, FOUND, MISSED).astype(np.int8)
    box_state[covered] = COVERED
    ignored = (matched < 0) & (overlaps.crowd_share > foreground_iou)
    return ErrorTable(overlaps, foreground_iou, background_iou, kind, ignored, target, mends, box_state)


def _checked(weights: np.ndarray | None, images: int) -> np.ndarray | None:
    if weights is None:
        return None
    weights = np.asarray(weights)
    if weights.shape != (images,) or weights.dtype.kind not in "iu" or (weights < 0).any():
        raise ValueError(f"weights: expected {images} integers from 0, got {weights.dtype} {weights.shape}")
    return weights.astype(np.int64)


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
