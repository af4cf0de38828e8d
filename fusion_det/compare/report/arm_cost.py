"""What each arm costs: parameters from its results; FLOPs and activations counted from its config without memory or weights."""

from __future__ import annotations

import contextlib
import json
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusion_det.compare.outcome import Outcome
from fusion_det.compare.run_record import RunRecord
from fusion_det.errors import FusionDetError

if TYPE_CHECKING:
    from fusion_det.analysis.cost import Cost

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class ArmCost:
    """Of one arm; ``None`` is unknown."""

    parameters: int | None
    """As its runs tell; counted if they do not."""
    counted: Cost | None = None
    """Parameters, FLOPs and activations of backbone, neck and head, and what is not in them."""
    seconds: float | None = None
    """Wall time of training, mean over the runs that know it."""
    speed: float | None = None
    """Training pictures per second: median over the epochs of all runs."""
    why: str = ""
    """Why nothing is counted."""

    @property
    def flops(self) -> int | None:
        return None if self.counted is None else self.counted.total.flops

    @property
    def activations(self) -> int | None:
        return None if self.counted is None else self.counted.total.activations

    def as_dict(self) -> dict[str, Any]:
        """Plain containers for ``report.json``."""
        counted = None if self.counted is None else self.counted.as_dict()
        measured = {"training_seconds": self.seconds, "training_images_per_second": self.speed}
        return {"parameters": self.parameters, "counted": counted, "why": self.why} | measured


def costs_of(outcome: Outcome) -> dict[str, ArmCost]:
    """By arm, of those with finished runs."""
    known: dict[str, Any] = {}
    return {arm: _cost(outcome.of_arm(arm), known) for arm in dict.fromkeys(run.arm for run in outcome.runs)}


def _cost(runs: list[RunRecord], known: dict[str, Any]) -> ArmCost:
    parameters = {value for run in runs if isinstance(value := run.results.get("parameters"), int)}
    times = [run.seconds for run in runs if run.seconds]
    seconds = sum(times) / len(times) if times else None
    counted, why = _counted(runs[0], known)
    single = next(iter(parameters)) if len(parameters) == 1 else None
    if not parameters and counted is not None:
        single = counted.total.parameters
    return ArmCost(single, counted, seconds, _speed(runs), why)


def _speed(runs: list[RunRecord]) -> float | None:
    """From the logs of the trainings; lines that cannot be read are passed over."""
    found: list[float] = []
    for file in {run.trained / METRICS for run in runs if run.trained is not None}:
        try:
            lines = file.read_bytes().splitlines()
        except OSError:
            continue
        for line in lines:
            if b"perf/images_per_s" in line:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    found.append(float(json.loads(line)["perf/images_per_s"]))
    return statistics.median(found) if found else None


def _counted(run: RunRecord, known: dict[str, Any]) -> tuple[Cost | None, str]:
    """The counted cost of a run's detector, or why there is none. Arms with the same detector are counted once."""
    if not run.config.get("backbone") or not run.start.get("class_names"):
        return None, "the config of the detector is not known"
    model = {
        key: value for key, value in run.config.items() if key in ("backbone", "neck", "fusion", "block", "head", "image_size", "data")
    }
    key = json.dumps(model, sort_keys=True, default=str)
    if key not in known:
        try:
            from fusion_det.analysis.cost import cost_of  # imports torch
            from fusion_det.data.buckets import buckets_of

            height, width = buckets_of(run.config["data"], run.config["data"]["image_size"])[0]
            known[key] = cost_of(run.config, len(run.start["class_names"]), (height, width)), ""
        except FusionDetError as error:
            known[key] = None, error.lines[0]
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:  # a config of an older version
            known[key] = None, f"the config cannot be built here: {type(error).__name__}: {error}"
    found: tuple[Cost | None, str] = known[key]
    return found
