"""What a study came to, as data: what the terminal, ``results.csv``, ``report.json`` and the report are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusion_det.compare.fairness import Difference
from fusion_det.compare.results import Comparison
from fusion_det.compare.run_record import RunRecord

FORMAT = 1


@dataclass(frozen=True)
class Failure:
    """A run that did not finish."""

    arm: str
    seed: int
    status: str
    message: str
    log: Path | None = None


@dataclass(frozen=True)
class BestEpochs:
    """What can be said of the best epochs, which were chosen by their AP on the pictures that they are reported on."""

    comparison: Comparison | None = None
    """As on the last epochs, but of the primary metric only."""
    evaluations: int = 0
    """Of each run, the same number for all; 0 without a comparison."""
    last: bool = False
    """Every best epoch is the last one: there is nothing more to say."""
    why: str = ""
    """Why there are no verdicts otherwise."""

    def as_dict(self) -> dict[str, Any]:
        """Plain containers for ``report.json``."""
        comparison = None if self.comparison is None else self.comparison.as_dict()
        return {"comparison": comparison, "evaluations": self.evaluations, "all_last": self.last, "no_verdict": self.why}


@dataclass(frozen=True)
class Outcome:
    """A whole study. Names of arms and classes are data: whoever shows them must escape them."""

    name: str
    folder: Path
    """Where reports go."""
    baseline: str
    metric: str
    arms: Mapping[str, tuple[str, ...]]
    """By name: the overrides that make the arm; empty for given runs and files."""
    runs: tuple[RunRecord, ...]
    """Every finished run."""
    failures: tuple[Failure, ...] = ()
    fairness: tuple[Difference, ...] = ()
    """Every difference between any two arms, the worst first; empty for bare files, of which nothing is known."""
    comparison: Comparison | None = None
    """Estimates, intervals and verdicts; ``None`` if there can be no verdict."""
    best: BestEpochs | None = None
    """The same on each run's best epoch, clearly second to it; ``None`` if no best epochs are known."""
    no_verdict: tuple[str, ...] = ()
    """Why there is none, a line per reason."""
    ground_truth: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The COCO dict that everything was measured on."""
    annotations: str = ""
    """Its file."""
    budget: str = ""
    """What every run could spend, in words."""
    notes: tuple[str, ...] = ()
    """What a reader must know."""

    def of_arm(self, arm: str) -> list[RunRecord]:
        """The finished runs of ``arm``, by seed."""
        return sorted((run for run in self.runs if run.arm == arm), key=lambda run: run.seed)

    def as_dict(self) -> dict[str, Any]:
        """Plain containers for ``report.json``; paths relative to the study's folder where they lie in it."""
        return {
            "format": FORMAT,
            "name": self.name,
            "baseline": self.baseline,
            "metric": self.metric,
            "budget": self.budget,
            "annotations": self.annotations,
            "arms": {name: list(words) for name, words in self.arms.items()},
            "runs": [self._run(run) for run in self.runs],
            "failures": [
                {"arm": f.arm, "seed": f.seed, "status": f.status, "message": f.message, "log": self.short(f.log)} for f in self.failures
            ],
            "fairness": [difference.as_dict() for difference in self.fairness],
            "no_verdict": list(self.no_verdict),
            "comparison": self.comparison.as_dict() if self.comparison else None,
            "best_epochs": self.best.as_dict() if self.best else None,
            "notes": list(self.notes),
        }

    def short(self, path: Path | None) -> str | None:
        """``path`` below the study's folder, or as it was given."""
        if path is None:
            return None
        inside = path.resolve().is_relative_to(self.folder.resolve())
        return str(path.resolve().relative_to(self.folder.resolve()) if inside else path)

    def _run(self, run: RunRecord) -> dict[str, Any]:
        results, start = run.results, run.start
        return {
            "arm": run.arm,
            "seed": run.seed,
            "folder": self.short(run.folder),
            "predictions": self.short(run.predictions),
            "summary": results.get("summary"),
            "per_class": results.get("per_class"),
            "per_supercategory": results.get("per_supercategory"),
            "best": results.get("best"),
            "parameters": results.get("parameters"),
            "seconds": run.seconds,
            "history": [{key: value for key, value in line.items() if not key.startswith("perf/")} for line in run.history],
            "start": {key: start.get(key) for key in ("steps", "order", "first_batch", "weights", "data", "hardware")} if start else None,
        }
