"""Precision over recall: of every class, IoU threshold and object size."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field

import numpy as np

from fusion_det.evaluation.match_table import AREA_NAMES, IOU_THRESHOLDS
from fusion_det.evaluation.precision_recall import RECALLS

MEAN = "mean of classes"
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, eq=False)
class Curves:
    """COCO's interpolated precision at 101 recalls, and the highest recall; T IoU thresholds, K classes, A area ranges."""

    category_ids: np.ndarray
    """int64 [K], sorted."""
    names: tuple[str, ...]
    """K different names."""
    precision: np.ndarray
    """float64 [T, 101, K, A] at the largest number of detections; -1 is undefined."""
    recall: np.ndarray
    """float64 [T, K, A, 3] at 1, 10 and the largest number of detections; -1 is undefined."""
    iou_thresholds: np.ndarray = field(default_factory=IOU_THRESHOLDS.copy)
    """float64 [T]."""
    recalls: np.ndarray = field(default_factory=RECALLS.copy)
    """float64 [101]."""
    area_names: tuple[str, ...] = AREA_NAMES

    def curve(self, *, iou: float, name: str | None = None, area: str = "all") -> np.ndarray:
        """float64 [101]: precision at :attr:`recalls` of the class ``name``, or the mean over the classes with boxes; NaN if undefined.

        Raises ``ValueError`` for a threshold, class or area range that was not measured.
        """
        near = np.flatnonzero(np.abs(self.iou_thresholds - iou) < 1e-9)
        if not len(near) or area not in self.area_names or (name is not None and name not in self.names):
            known = f"IoU in {self.iou_thresholds.round(2).tolist()}, area in {self.area_names}, a class of the data"
            raise ValueError(f"expected {known}; got {iou}, {area!r}, {name!r}")
        of_classes = self.precision[near[0], :, :, self.area_names.index(area)]
        if name is not None:
            of_classes = of_classes[:, [self.names.index(name)]]
        defined = of_classes[:, of_classes[0] > -1]
        return defined.mean(axis=1) if defined.size else np.full(len(self.recalls), np.nan)

    def csv(self) -> str:
        """A row for each class (and the mean of the classes), area range and IoU threshold: the highest recall, and the curve.

        What is undefined has no row. Names that a spreadsheet would run as a formula get a leading apostrophe.
        """
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["category_id", "class", "area", "iou", "max_recall", *(f"precision_at_{recall:.2f}" for recall in self.recalls)])
        classes: list[tuple[int | None, str]] = [(None, MEAN), *zip(self.category_ids.tolist(), self.names, strict=True)]
        for k, (number, name) in enumerate(classes, start=-1):
            for a, area in enumerate(self.area_names):
                for t, iou in enumerate(self.iou_thresholds):
                    curve = self.curve(iou=float(iou), name=None if number is None else name, area=area)
                    highest = self.recall[t, :, a, -1] if number is None else self.recall[t, k : k + 1, a, -1]
                    if not np.isnan(curve[0]):
                        recall = float(highest[highest > -1].mean())
                        rows.writerow([number, _plain(name), area, f"{iou:.2f}", f"{recall:.6g}", *(f"{value:.6g}" for value in curve)])
        return text.getvalue()


def _plain(name: str) -> str:
    return f"'{name}" if name.startswith(_FORMULA_STARTS) else name
