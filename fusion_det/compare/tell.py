"""A study in the terminal and in plain files: the plan before, the verdicts after, ``results.csv`` and ``report.json``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusion_det.compare.fairness import ORDER, Difference
from fusion_det.compare.outcome import Outcome
from fusion_det.compare.plan import Plan
from fusion_det.compare.status import duration
from fusion_det.config.files import write_atomic, write_json
from fusion_det.errors import FusionDetError
from fusion_det.evaluation.box_metrics import SUMMARY_NAMES, printable

if TYPE_CHECKING:
    from fusion_det.compare.report.arm_cost import ArmCost

CSV, JSON = "results.csv", "report.json"
_PARTS, _COUNTED_KINDS = ("backbone", "neck", "head"), ("parameters", "flops", "activations")
COUNTED = ("flops", "activations", *(f"{part}_{kind}" for part in _PARTS for kind in _COUNTED_KINDS))
_KINDS = {"fatal": "fatal", "suspicious": "suspicious", "variable": "the variable under study", "allowed": "allowed"}
_LONGEST = 100


def plan_lines(plan: Plan, sheet: Sequence[Difference], *, budget: str, slots: int, threads: int, common: Sequence[str]) -> list[str]:
    """What will be run and how the arms differ, for people."""
    trainings = sum(job.tool == "train" for job in plan.jobs)
    evaluations = len(plan.jobs) - trainings
    seeds = f"{_many(len(plan.seeds), 'seed')} ({', '.join(map(str, plan.seeds))})"
    runs = _many(trainings, "training run") + (f" and {_many(evaluations, 'evaluation')}" if evaluations else "")
    lines = [f"study {plan.folder.name}: {len(plan.arms)} arms x {seeds}: {runs}, in {plan.folder}"]
    rows = [["arm", "overrides", "keys that differ from the baseline's"]]
    for arm in plan.arms:
        keys = [d.key for d in sheet if {d.first, d.second} == {arm.name, plan.baseline} and d.kind != "allowed"]
        told = (
            "baseline" if arm.name == plan.baseline else f"{len(keys)}: {', '.join(dict.fromkeys(key.partition('.')[0] for key in keys))}"
        )
        rows.append([arm.name, " ".join(arm.arm.words) or "(none)", told])
    lines += aligned(rows)
    if common:
        lines.append(f"every arm: {' '.join(common)}")
    lines.append(
        f"budget: {budget}; {slots} run{'s' if slots > 1 else ''} at a time, {threads} CPU thread{'s' if threads > 1 else ''} each"
    )
    if len(plan.seeds) == 1:
        lines.append("warning: one seed tells nothing about the noise of training: there will be no verdict; give two seeds at least")
    return [*lines, *fairness_lines([d for d in sheet if d.kind == "suspicious"])]


def forecast_lines(plan: Plan, seconds: Mapping[str, float], total: float, done: int) -> list[str]:
    """The forecast, called an estimate."""
    per_arm: dict[str, float] = {}
    for job in plan.jobs:
        if job.id in seconds:
            per_arm.setdefault(job.id.rpartition("/")[0], seconds[job.id])
    each = ", ".join(f"{name} {duration(value)}" for name, value in per_arm.items())
    already = f"; {done} of {len(plan.jobs)} are done already" if done else ""
    return [
        f"estimate per run: {each}",
        f"estimate in all: {duration(total)}{already} (from a few steps or earlier runs; other work slows it)",
    ]


def outcome_lines(outcome: Outcome) -> list[str]:
    """The verdict table and all that qualifies it."""
    lines = []
    if outcome.comparison is not None:
        found = outcome.comparison
        lines.append(f"{found.primary} x 100 against {outcome.baseline}, {found.images} images, {found.resamples} resamples:")
        lines += found.table().splitlines()
    lines += _best_lines(outcome)
    lines += [f"no verdict: {reason}" for reason in outcome.no_verdict]
    lines += [f"{f.status}: {f.arm}/seed{f.seed}: {f.message}{f' (see {f.log})' if f.log else ''}" for f in outcome.failures]
    lines += fairness_lines(outcome.fairness)
    lines += [f"note: {note}" for note in outcome.notes]
    return [printable(line) for line in lines]


def _best_lines(outcome: Outcome) -> list[str]:
    """One line on the best epochs, second to the table."""
    if outcome.best is None or outcome.best.last:
        return []
    if (found := outcome.best.comparison) is None:
        return [f"no verdicts on the best epochs: {outcome.best.why}"]
    words = []
    for arm, values in found.differences.items():
        difference, verdict = values[found.primary], found.verdicts.get(arm)
        if difference is not None and verdict is not None:
            words.append(f"{arm} {verdict.word} ({100 * difference.estimate:+.2f})")
    return [f"on each run's best epoch, chosen on the same pictures and so optimistic: {', '.join(words)}"] if words else []


def fairness_lines(sheet: Sequence[Difference]) -> list[str]:
    """How many differences of each kind, and the fatal and suspicious ones one by one."""
    if not sheet:
        return []
    counts = {kind: sum(d.kind == kind for d in sheet) for kind in ORDER}
    lines = ["differences between arms: " + ", ".join(f"{count} {_KINDS[kind]}" for kind, count in counts.items() if count)]
    told: dict[tuple[str, str, str, str], list[str]] = {}
    for d in sheet:
        if d.kind in ("fatal", "suspicious"):
            told.setdefault((d.kind, d.key, f"{_brief(d.values[0])} and {_brief(d.values[1])}", d.why), []).append(f"{d.first}-{d.second}")
    return lines + [
        f"  {kind}: {key}: {values} ({why}) in {', '.join(pairs[:3])}{f' and {len(pairs) - 3} more pairs' if len(pairs) > 3 else ''}"
        for (kind, key, values, why), pairs in told.items()
    ]


def write_files(outcome: Outcome, costs: Mapping[str, ArmCost]) -> None:
    """``results.csv``, a row per run, and ``report.json``, everything; ``costs`` by arm."""
    content = outcome.as_dict() | {"costs": {arm: cost.as_dict() for arm, cost in costs.items()}}
    try:
        write_atomic(outcome.folder / CSV, csv_text(outcome, costs).encode())
        write_json(outcome.folder / JSON, _finite(content))
    except OSError as error:
        raise FusionDetError(f"cannot write: {error.strerror or error}", where=str(outcome.folder), mend="choose a folder=DIR") from error


def csv_text(outcome: Outcome, costs: Mapping[str, ArmCost]) -> str:
    """One row per run, finished or not; numbers in 0..1, empty for undefined. Texts cannot be taken for formulas by a spreadsheet.

    The last columns are what was counted of the arm's detector: ``flops``, ``activations``, and by part ``backbone_parameters``, ...
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arm", "seed", "status", *SUMMARY_NAMES, "parameters", "seconds", "folder", "best_epoch", "best_AP", *COUNTED])
    for run in outcome.runs:
        summary = run.results.get("summary") or {}
        numbers = [summary.get(name) for name in SUMMARY_NAMES]
        seconds = None if run.seconds is None else round(run.seconds, 1)
        place = outcome.short(run.folder or run.predictions)
        best = run.best or {"epoch": None, "summary": {}}
        more = [run.results.get("parameters"), seconds, place, best.get("epoch"), best["summary"].get("AP")]
        writer.writerow(_cells([run.arm, run.seed, "done", *numbers, *more, *_counted(costs, run.arm)]))
    for failure in outcome.failures:
        empty = [None] * (len(SUMMARY_NAMES) + 5)
        writer.writerow(_cells([failure.arm, failure.seed, failure.status, *empty, *_counted(costs, failure.arm)]))
    return text.getvalue()


def _counted(costs: Mapping[str, ArmCost], arm: str) -> list[int | None]:
    """The numbers under :data:`COUNTED`."""
    counted = costs[arm].counted if arm in costs else None
    if counted is None:
        return [None] * len(COUNTED)
    whole = [counted.total.flops, counted.total.activations]
    return [*whole, *(getattr(counted.parts[part], kind) for part in _PARTS for kind in _COUNTED_KINDS)]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns side by side."""
    widths = [min(_LONGEST, max(map(len, column))) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _cells(values: Iterable[Any]) -> list[Any]:
    return [safe_cell(value) if isinstance(value, str) else "" if value is None else value for value in values]


def safe_cell(text: str) -> str:
    """``text`` without control characters, and with a quote before what a spreadsheet would compute."""
    text = printable(text)
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@") else text


def _brief(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _finite(value: Any) -> Any:
    """JSON knows no NaN; NumPy numbers become plain ones."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    return None if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))) else value
