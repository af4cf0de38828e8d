"""``tools/compare.py``: arms and seeds in, verdicts out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fusion_det.compare.best import judge_best
from fusion_det.compare.collect import collect
from fusion_det.compare.done import foreign_faults
from fusion_det.compare.fairness import fairness_sheet, fatal_reasons
from fusion_det.compare.given import read_given_files, read_given_runs
from fusion_det.compare.judge import judge, truth_of_file, truth_of_runs
from fusion_det.compare.outcome import Failure, Outcome
from fusion_det.compare.plan import Plan, study_folder
from fusion_det.compare.report.arm_cost import costs_of
from fusion_det.compare.report.write import write_report
from fusion_det.compare.run_record import RunRecord
from fusion_det.compare.runner import Runner
from fusion_det.compare.slots import core_count
from fusion_det.compare.state import StudyState
from fusion_det.compare.status import StatusTable
from fusion_det.compare.tell import CSV, JSON, outcome_lines, write_files
from fusion_det.compare.tune import choose_rates, tuning_plan
from fusion_det.compare.workshop import Workshop
from fusion_det.config.cli import Folders
from fusion_det.config.compare_schema import CompareConfig
from fusion_det.engine.signals import Interrupted, StopRequest
from fusion_det.errors import ConfigError, FusionDetError, raise_all

logger = logging.getLogger(__name__)
SOME_FAILED, NO_VERDICT = 1, 3
"""Exit codes: some runs did not finish; the runs cannot be compared."""


def compare(settings: CompareConfig, folders: Folders) -> int:
    """Run what is to be run, judge it, write and print the findings; the exit code.

    Raises the errors of :mod:`fusion_det.errors`; ``Interrupted`` after a stop by signal, when the same command goes on.
    """
    if settings.runs is None and settings.predictions is None:
        return _study(settings, folders)
    runs = read_given_runs(settings.runs) if settings.runs is not None else read_given_files(settings.predictions or "")
    folder = study_folder(settings)
    make_folder(folder)
    baseline = _given_baseline(settings, runs)
    outcome = Outcome(settings.name, folder, baseline, settings.statistics.metric, {run.arm: run.words for run in runs}, tuple(runs))
    return report(judged(outcome, settings), look=settings.explain)


def preview(settings: CompareConfig, folders: Folders) -> int:
    """``--dry-run``: check everything, tell the plan and a forecast, start no run."""
    if settings.runs is not None or settings.predictions is not None:
        raise ConfigError("there is nothing to plan for runs= and predictions=", where="--dry-run", mend="leave it out")
    with Workshop(settings, folders) as workshop:
        plan = workshop.plan()
        for line in workshop.plan_lines(plan):
            logger.info("%s", line)
        if settings.forecast:
            for line in workshop.forecast_lines(plan):
                logger.info("%s", line)
    return 0


def _study(settings: CompareConfig, folders: Folders) -> int:
    metric = settings.statistics.metric
    with Workshop(settings, folders) as workshop:
        plan = workshop.plan()
        for line in workshop.plan_lines(plan):
            logger.info("%s", line)
        if settings.tune.lr:
            tuning = tuning_plan(plan, settings, folders)
            raise_all(foreign_faults(tuning.jobs))
            make_folder(tuning.folder)
            run_jobs(workshop, tuning, metric)
            plan = workshop.with_rates(choose_rates(plan, tuning, settings))
        state = run_jobs(workshop, plan, metric)
        runs, failures = collect(plan, state)
        outcome = Outcome(
            plan.folder.name, plan.folder, plan.baseline, metric, workshop.words_of(plan), tuple(runs), tuple(failures),
            budget=workshop.budget_text(plan), notes=tuple(workshop.notes(plan)),
        )  # fmt: skip
        return report(judged(outcome, settings, budget_keys=workshop.budget_keys), look=settings.explain)


def run_jobs(workshop: Workshop, plan: Plan, metric: str) -> StudyState:
    """Bring all jobs of ``plan`` to their ends; ``Interrupted`` after a stop by signal."""
    state = StudyState(plan.folder)
    seconds = workshop.known_seconds(plan, state)
    display = StatusTable(plan, state, sys.stdout, slots=len(workshop.slots), metric=metric, seconds_of=seconds)
    retries = workshop.settings.retries
    runner = Runner(plan.jobs, state, workshop.launcher, workshop.slots, command_of=workshop.command, display=display, retries=retries)
    with StopRequest() as stop:
        runner.run(stop)
    display.finish()
    if stop.number is not None:
        raise Interrupted(stop.number, where=str(workshop.folder), mend="the same command goes on with it")
    return state


def judged(outcome: Outcome, settings: CompareConfig, *, budget_keys: tuple[str, ...] = ()) -> Outcome:
    """``outcome`` with the fairness sheet and, if nothing forbids it, the statistics."""
    runs = outcome.runs
    known = [run for run in runs if run.config]
    variables = outcome.arms if settings.runs is None else None
    sheet = fairness_sheet(known, variables=variables, budget_keys=budget_keys)
    reasons = [*fatal_reasons(sheet), *_missing(outcome)]
    outcome = replace(outcome, fairness=tuple(sheet), no_verdict=tuple(reasons))
    if reasons:
        return outcome
    try:
        truth, file = truth_of_file(Path(settings.gt).expanduser()) if settings.gt is not None else truth_of_runs(runs)
    except FusionDetError as error:
        if settings.gt is not None:
            raise
        return replace(outcome, no_verdict=tuple(error.lines))
    comparison = judge(runs, truth, settings.statistics, baseline=outcome.baseline, threads=core_count())
    best = judge_best(runs, truth, settings.statistics, baseline=outcome.baseline, threads=core_count())
    return replace(outcome, comparison=comparison, best=best, ground_truth=truth, annotations=file)


def report(outcome: Outcome, *, look: bool) -> int:
    """Write and print ``outcome``; the exit code of the tool. ``look``: at the trained detectors too."""
    costs = costs_of(outcome)
    write_files(outcome, costs)
    for line in outcome_lines(outcome):
        logger.info("%s", line)
    pages = write_report(outcome, costs, look=look)
    logger.info("in %s: %s", outcome.folder, ", ".join([CSV, JSON, *pages]))
    return SOME_FAILED if outcome.failures else NO_VERDICT if outcome.no_verdict else 0


def make_folder(folder: Path) -> None:
    """The study's folder, or an error that tells why it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FusionDetError(f"cannot write: {error.strerror or error}", where=str(folder), mend="choose another folder=DIR") from error


def _missing(outcome: Outcome) -> list[str]:
    """Why there is nothing to compare."""
    present = {run.arm for run in outcome.runs}
    failed: Sequence[Failure] = outcome.failures
    if outcome.baseline not in present:
        return [f"no run of the baseline {outcome.baseline} is finished"]
    return [f"no run of another arm is finished ({len(failed)} failed)"] if len(present) < 2 else []


def _given_baseline(settings: CompareConfig, runs: Sequence[RunRecord]) -> str:
    names = list(dict.fromkeys(run.arm for run in runs))
    if settings.baseline is not None and settings.baseline not in names:
        raise ConfigError(f"no arm {settings.baseline!a}", where="baseline", mend=f"arms: {', '.join(names)}")
    return settings.baseline or names[0]
