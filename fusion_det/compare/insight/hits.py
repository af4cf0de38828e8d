"""Which objects a run finds when only detections of a certain score are shown. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusion_det.compare.run_record import RunRecord
from fusion_det.evaluation.error_types import CORRECT, find_errors
from fusion_det.evaluation.overlaps import find_overlaps
from fusion_det.evaluation.predictions import DetectionArrays, read_detections
from fusion_det.evaluation.score_thresholds import score_thresholds
from fusion_det.evaluation.truth_arrays import TruthArrays

_DETECTIONS = 100


@dataclass(frozen=True, eq=False)
class Objects:
    """The G boxes of the ground truth that are not crowds, by image, in the order in which :class:`Hits` tells them."""

    image_ids: np.ndarray
    """int64 [I], sorted."""
    image: np.ndarray
    """int64 [G], sorted: index into ``image_ids``."""
    category: np.ndarray
    """int64 [G]: COCO category ids."""
    boxes: np.ndarray
    """float64 [G, 4] xywh in pixels of the stored picture."""

    @classmethod
    def of(cls, truth: TruthArrays) -> Objects:
        """Those of ``truth``."""
        ids = np.sort(truth.image_ids)
        image = np.searchsorted(ids, truth.box_images[~truth.crowd])
        order = image.argsort(kind="stable")
        return cls(ids, image[order], truth.box_categories[~truth.crowd][order], truth.boxes[~truth.crowd][order])


@dataclass(frozen=True, eq=False)
class Hits:
    """One run, at IoU 0.5, with the score threshold that gives it the best F1."""

    seed: int
    threshold: float
    found: np.ndarray
    """bool [G]."""
    image: np.ndarray
    """int64 [N] of the detections with at least that score: index into the sorted image ids."""
    boxes: np.ndarray
    """float64 [N, 4] xywh."""
    category: np.ndarray
    """int64 [N]."""
    score: np.ndarray
    """float64 [N]."""
    right: np.ndarray
    """bool [N]: it is the one that found an object."""


def hits_of(run: RunRecord, truth: TruthArrays) -> Hits:
    """Read the predictions of ``run`` and match them. Raises ``DataError`` for a file that cannot be used."""
    detections: DetectionArrays = read_detections(run.predictions)
    overlaps = find_overlaps(truth, detections, minimum_iou=0.1, max_detections=_DETECTIONS)
    errors = find_errors(overlaps)
    best = score_thresholds(errors).best["threshold"]
    threshold = 1.0 if best is None else float(best)
    shown = (overlaps.score >= threshold) & ~errors.ignored
    right = (errors.kind == CORRECT) & shown
    found = np.zeros(len(overlaps.box_image), dtype=bool)
    found[errors.target[right]] = True
    rows = overlaps.row[shown]
    return Hits(
        run.seed, threshold, found, overlaps.image[shown], detections.boxes[rows], detections.category_ids[rows], overlaps.score[shown],
        right[shown],
    )  # fmt: skip
