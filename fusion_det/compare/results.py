"""What a comparison found, as data that can be written as JSON; all metrics are in 0..1."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fusion_det.compare.estimates import Estimate
from fusion_det.compare.intervals import Interval
from fusion_det.compare.verdicts import Verdict
from fusion_det.evaluation.box_metrics import printable


@dataclass(frozen=True)
class ClassDifference:
    """The difference in AP of one class between an arm and the baseline."""

    category_id: int
    name: str
    boxes: int
    """Ground-truth boxes that count."""
    baseline: float
    arm: float
    difference: float
    interval: Interval
    """Calibrated, not adjusted for the number of classes."""
    p_value: float | None
    """``None`` for one seed."""
    adjusted_p_value: float | None
    """For the number of classes, by Benjamini and Hochberg: the share of false findings among those at or below it."""


@dataclass(frozen=True)
class Vanished:
    """Classes without boxes in some resamples, where they are left out of the mean."""

    resamples: int
    """In which at least one class was missing."""
    classes: dict[str, int]
    """By name: in how many resamples it was missing; only classes that have boxes in the whole set."""


@dataclass(frozen=True)
class Comparison:
    """Arms against a baseline."""

    baseline: str
    seeds: dict[str, tuple[str, ...]]
    """By arm: all its seeds."""
    primary: str
    """The metric that the verdicts are about."""
    margin: float
    """Differences smaller than this do not matter."""
    confidence: float
    images: int
    resamples: int
    resampling_seed: int
    """With ``images`` and ``resamples``, this repeats every resample: see :class:`ImageResamples`."""
    arms: dict[str, dict[str, Estimate | None]]
    """By arm, the baseline included, and metric; ``None`` where nothing defines the metric."""
    differences: dict[str, dict[str, Estimate | None]]
    """By arm, without the baseline, and metric: arm minus baseline over the seeds that both have."""
    verdicts: dict[str, Verdict]
    """By arm, without the baseline; adjusted for the number of arms."""
    classes: dict[str, tuple[ClassDifference, ...]]
    """By arm, without the baseline; empty if not asked for."""
    vanished: Vanished
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain containers for a JSON file."""
        return asdict(self)

    def table(self) -> str:
        """One line per arm, times 100: mean, difference with interval, verdict; then the warnings."""
        rows = [("arm", "seeds", self.primary, "difference", f"{100 * self.confidence:.0f} % interval", "verdict")]
        for arm, estimates in self.arms.items():
            mean, difference = estimates[self.primary], self.differences.get(arm, {}).get(self.primary)
            verdict = self.verdicts.get(arm)
            word = "baseline" if arm == self.baseline else f"{verdict.word}: {verdict.reason}" if verdict else "not defined"
            interval = f"{100 * difference.interval.low:+.2f} to {100 * difference.interval.high:+.2f}" if difference else ""
            size = f"{100 * difference.estimate:+.2f}" if difference else ""
            value = "-" if mean is None else f"{100 * mean.estimate:.2f}"
            rows.append((printable(arm), str(len(self.seeds[arm])), value, size, interval, word))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join(lines + [f"warning: {printable(warning)}" for warning in self.warnings])
