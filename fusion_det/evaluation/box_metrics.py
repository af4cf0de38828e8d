"""The numbers of one evaluation, as data and as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion_det.evaluation.curves import Curves

SUMMARY_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
CLASS_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")

Number = float | None
"""A metric in 0..1; ``None`` where nothing defines it (no ground-truth box of that class or size)."""


@dataclass(frozen=True)
class BoxMetrics:
    """COCO box metrics of one set of detections. All numbers are in 0..1; ``None`` is undefined, never -1."""

    summary: dict[str, Number]
    """The twelve numbers of :data:`SUMMARY_NAMES`; AR100 and all APs are at ``max_detections`` per image."""
    per_class: dict[str, dict[str, Any]]
    """By class name: the numbers of :data:`CLASS_NAMES`, ``images`` with the class and its ``boxes`` (crowds not counted)."""
    per_supercategory: dict[str, dict[str, Number]]
    """By supercategory: means over its classes that have boxes; empty if all classes share one supercategory."""
    counts: dict[str, int]
    """images (all, without boxes, without detections), boxes, crowds, detections, classes (all, without boxes), max_detections."""
    per_iou: dict[str, dict[str, Number]] = field(default_factory=dict)
    """By IoU threshold, ``"0.50"`` to ``"0.95"``: AP and AR100, means over the classes."""
    warnings: tuple[str, ...] = ()
    curves: Curves | None = field(default=None, compare=False, repr=False)
    """Precision over recall, from which all numbers come; no part of :meth:`as_dict`."""

    def as_dict(self) -> dict[str, Any]:
        """Plain containers for a JSON file, without non-finite numbers."""
        return {
            "summary": dict(self.summary),
            "per_class": {name: dict(values) for name, values in self.per_class.items()},
            "per_supercategory": {name: dict(values) for name, values in self.per_supercategory.items()},
            "per_iou": {threshold: dict(values) for threshold, values in self.per_iou.items()},
            "counts": dict(self.counts),
            "warnings": list(self.warnings),
        }

    def scalars(self, prefix: str = "val") -> dict[str, float]:
        """Tags for the log, ``val/AP`` and ``val_class/<name>/AP``; undefined numbers are left out."""
        tags = {f"{prefix}/{name}": value for name, value in self.summary.items()}
        tags |= {f"{prefix}_class/{name}/AP": values["AP"] for name, values in self.per_class.items()}
        return {tag: value for tag, value in tags.items() if value is not None}

    def table(self) -> str:
        """The twelve numbers, then one line per class and supercategory and the IoU thresholds, times 100, ``-`` for undefined."""
        counts = self.counts
        lines = [
            f"box metrics x 100 on {counts['images']} images, {counts['boxes']} boxes, {counts['detections']} detections "
            f"(at most {counts['max_detections']} per image and class)",
            "  ".join(f"{name:>5}" for name in SUMMARY_NAMES),
            "  ".join(_percent(self.summary[name]) for name in SUMMARY_NAMES),
        ]
        if len(self.per_class) > 1:
            lines += ["", *_rows("class", self.per_class, (*CLASS_NAMES, "images", "boxes"))]
        if self.per_supercategory:
            lines += ["", *_rows("supercategory", self.per_supercategory, CLASS_NAMES)]
        if self.per_iou:
            lines += ["", "  ".join(f"{word:>5}" for word in ("IoU", *self.per_iou))]
            lines += ["  ".join([f"{name:>5}", *(_percent(v[name]) for v in self.per_iou.values())]) for name in ("AP", "AR100")]
        return "\n".join(lines + [f"warning: {printable(warning)}" for warning in self.warnings])


def printable(text: str) -> str:
    """``text`` without control characters: a class name is data and must not steer the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _percent(value: Number) -> str:
    return "    -" if value is None else f"{100 * value:5.1f}"


def _rows(title: str, groups: Mapping[str, Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    names = [printable(name) for name in groups]
    width = max(map(len, [title, *names]))
    header = f"{title:<{width}}  " + "  ".join(f"{column:>6}" for column in columns)
    rows = [
        f"{name:<{width}}  " + "  ".join(f"{values[c]:>6}" if c in ("images", "boxes") else f" {_percent(values[c])}" for c in columns)
        for name, values in zip(names, groups.values(), strict=True)
    ]
    return [header.rstrip(), *rows]
