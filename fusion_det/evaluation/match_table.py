"""Which detection hit, which missed and which does not count: everything that COCO's box AP and AR need, as columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np

from fusion_det.evaluation.box_metrics import Number
from fusion_det.evaluation.precision_recall import TruePositives, precision_recall, summary_numbers

IOU_THRESHOLDS = np.linspace(0.5, 0.95, int(np.round((0.95 - 0.5) / 0.05)) + 1, endpoint=True)
"""float64 [10], with the rounding of pycocotools."""
AREA_NAMES = ("all", "small", "medium", "large")
AREA_RANGES = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]], dtype=np.float64)
"""Square pixels, both ends included; of the annotation's area for a box, of width x height for a detection."""


@dataclass(frozen=True, eq=False)
class MatchTable:
    """The matches of one set of detections with one ground truth; I images, K classes, A area ranges, T IoU thresholds.

    N detections are kept: those with ``rank < max_detections``. They are sorted by class, then by falling score, equal scores by image and
    then by rank: the order in which pycocotools accumulates. G ground-truth boxes are listed in any order.
    """

    image_ids: np.ndarray
    """int64 [I], sorted."""
    category_ids: np.ndarray
    """int64 [K], sorted."""
    category_names: tuple[str, ...]
    """K names, as in the ground truth; not necessarily different from each other."""
    max_detections: int
    """Detections that count per image and class."""
    class_starts: np.ndarray
    """int64 [K + 1]; the detections of class k are ``class_starts[k]:class_starts[k + 1]``."""
    image: np.ndarray
    """int32 [N], index into ``image_ids``."""
    score: np.ndarray
    """float64 [N]."""
    rank: np.ndarray
    """int32 [N], 0 for the best of its image and class."""
    row: np.ndarray
    """int64 [N], position of the detection in the input."""
    matched_bits: np.ndarray
    """uint64 [N]; bit ``a * T + t`` tells whether the detection matched a box, one that counts or not; see :attr:`matched`."""
    ignored_bits: np.ndarray
    """uint64 [N], the same for :attr:`ignored`."""
    truth_image: np.ndarray
    """int32 [G], index into ``image_ids``."""
    truth_class: np.ndarray
    """int32 [G], index into ``category_ids``."""
    truth_counted: np.ndarray
    """bool [A, G]: the box lies in the area range and is no crowd."""
    iou_thresholds: np.ndarray = field(default_factory=IOU_THRESHOLDS.copy)
    """float64 [T]."""
    area_names: tuple[str, ...] = AREA_NAMES

    @classmethod
    def from_arrays(cls, *, matched: np.ndarray, ignored: np.ndarray, **columns: Any) -> Self:
        """A table from ``matched`` and ``ignored``, bool [A, T, N], and the other fields by name.

        What matched nothing at any threshold of an area range must be ignored at all of them or at none.
        """
        areas, thresholds = matched.shape[:2]
        if matched.shape != ignored.shape or areas * thresholds > 64:
            raise ValueError(f"expected matched and ignored of one shape with A * T <= 64, got {matched.shape} and {ignored.shape}")
        unmatched = ~matched
        uneven = (unmatched & ignored).any(axis=1) & (unmatched & ~ignored).any(axis=1)
        if uneven.any():
            raise ValueError(f"detection {int(uneven.any(axis=0).argmax())} is unmatched and ignored at some thresholds only")
        return cls(matched_bits=_packed(matched), ignored_bits=_packed(ignored), **columns)

    def __len__(self) -> int:
        return len(self.row)

    @property
    def shape(self) -> tuple[int, int]:
        """(A, T)."""
        return len(self.area_names), len(self.iou_thresholds)

    @property
    def matched(self) -> np.ndarray:
        """bool [A, T, N]: the detection matched a ground-truth box, one that counts or not. Made anew at each call."""
        return _unpacked(self.matched_bits, self.shape)

    @property
    def ignored(self) -> np.ndarray:
        """bool [A, T, N]: does not count, because it matched a box that does not, or matched none and lies outside the area range.

        A true positive is ``matched & ~ignored``, a false positive ``~matched & ~ignored``. Made anew at each call.
        """
        return _unpacked(self.ignored_bits, self.shape)

    @cached_property
    def true_positives(self) -> TruePositives:
        """The sparse form that :meth:`precision_recall` works on."""
        return TruePositives.of(self)

    def precision_recall(self, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """COCO's precision [T, 101, K, A] at ``max_detections``, and recall [T, K, A, 3] at 1, 10 and ``max_detections``; -1 is undefined.

        ``weights`` are whole numbers [I]: how often each image counts. The result is that of a data set with so many copies of each
        image; where detections of one image have equal scores, all copies of the first come before those of the second. Raises
        ``ValueError`` for other weights.
        """
        return precision_recall(self, weights)

    def summary(self, weights: np.ndarray | None = None) -> dict[str, Number]:
        """The twelve COCO numbers by name (see ``SUMMARY_NAMES``) in 0..1, ``None`` where nothing defines one; ``weights`` as above."""
        return summary_numbers(*self.precision_recall(weights))

    @cached_property
    def detection_class(self) -> np.ndarray:
        """int32 [N], index into ``category_ids``."""
        return np.repeat(np.arange(len(self.category_ids), dtype=np.int32), np.diff(self.class_starts))


def _packed(flags: np.ndarray) -> np.ndarray:
    bits = np.zeros(flags.shape[-1], dtype=np.uint64)
    for position, row in enumerate(flags.reshape(-1, flags.shape[-1])):
        bits |= row.astype(np.uint64) << np.uint64(position)
    return bits


def _unpacked(bits: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    flags = np.empty((shape[0] * shape[1], len(bits)), dtype=bool)
    for position, row in enumerate(flags):
        np.not_equal(bits & np.uint64(1 << position), 0, out=row)
    return flags.reshape(*shape, len(bits))
