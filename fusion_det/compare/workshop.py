"""Everything that a study needs to be run: its locked folder, its plan, its share of the machine, its commands."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fusion_det.compare.budget import budget_keys, budget_text, budget_words, is_given, solve_budget
from fusion_det.compare.done import foreign_faults, is_done
from fusion_det.compare.fairness import Difference, fairness_sheet, fatal_reasons
from fusion_det.compare.forecast import Rehearsal, job_seconds, makespan, rehearse_all
from fusion_det.compare.launch import Command, Launcher, LocalLauncher, tool_command, tool_environment
from fusion_det.compare.plan import Job, Plan, PlannedArm, make_plan, study_folder
from fusion_det.compare.run_record import RunRecord
from fusion_det.compare.runner import Runner
from fusion_det.compare.slots import Slot, make_slots
from fusion_det.compare.state import StudyState
from fusion_det.compare.tell import forecast_lines, plan_lines
from fusion_det.compare.tune import KEY as LEARNING_RATE
from fusion_det.compare.tune import tuning_note
from fusion_det.config.cli import Folders
from fusion_det.config.compare_schema import CompareConfig
from fusion_det.config.lock import FolderLock
from fusion_det.errors import ConfigError, FusionDetError, raise_all

if TYPE_CHECKING:
    from fusion_det.compare.matched_arms import Twin

logger = logging.getLogger(__name__)


class Workshop:
    """Holds the study's folder while it is entered; a second runner on one folder is refused with ``ConfigError``."""

    def __init__(self, settings: CompareConfig, folders: Folders) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                "a study cannot run under torchrun", where="tools/compare.py", mend="start it alone; jobs= sets runs at a time"
            )
        self.settings, self.folders = settings, folders
        self.folder = study_folder(settings)
        self.slots = make_slots(settings.jobs)
        self.launcher: Launcher = make_launcher(settings, self.folder)
        self.extra: dict[str, tuple[str, ...]] = {}
        """Overrides per arm that were found out: epochs of a budget."""
        self.rates: dict[str, float] = {}
        """Tuned learning rate per arm."""
        self.twins: list[Twin] = []
        """Arms at matched cost."""
        self._lock: FolderLock | None = None

    def __enter__(self) -> Self:
        self._first = make_plan(self.settings, self.folders)  # faults are told before a folder is made
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.folder)
        except OSError as error:
            mend = "choose another folder=DIR"
            raise FusionDetError(f"cannot write: {error.strerror or error}", where=str(self.folder), mend=mend) from error
        except ConfigError as error:
            mend = "wait for it, stop it, or choose another name=NAME or folder=DIR"
            raise ConfigError(error.what, where=str(self.folder), mend=mend) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._lock is not None:
            self._lock.release()

    def plan(self) -> Plan:
        """The plan, after every arm was built without data and every budget solved. All faults at once, before anything starts."""
        plan, budget = self._first, self.settings.budget
        check_buildable(plan)
        if budget.match is not None:
            from fusion_det.compare.matched_arms import matched_twins  # imports torch

            self.twins = matched_twins(plan, budget.match, self.folders, classes=_classes)
            plan = self._make()
        if is_given(budget):
            epochs = solve_budget(plan, budget, pictures=_train_pictures, rehearse=lambda: self._rehearse(plan))
            self.extra = budget_words(epochs)
            plan = self._make()
        self._check(plan)
        return plan

    def with_rates(self, rates: Mapping[str, float]) -> Plan:
        """The plan with a tuned learning rate for every arm."""
        self.rates = dict(rates)
        plan = self._make()
        self._check(plan)
        return plan

    def _make(self) -> Plan:
        names = {*self.extra, *self.rates}
        extra = {name: (*self.extra.get(name, ()), *self._rate_words(name)) for name in names}
        return make_plan(self.settings, self.folders, extra, [twin.arm for twin in self.twins])

    def _rate_words(self, arm: str) -> tuple[str, ...]:
        return (f"{LEARNING_RATE}={self.rates[arm]!r}",) if arm in self.rates else ()

    def words_of(self, plan: Plan) -> dict[str, tuple[str, ...]]:
        """What makes each arm: its overrides and its tuned rate."""
        return {arm.name: (*arm.arm.words, *self._rate_words(arm.name)) for arm in plan.arms}

    def _check(self, plan: Plan) -> None:
        reasons = fatal_reasons(self.sheet(plan))
        raise_all(
            [
                ConfigError(reason, where="arms", mend="arms must share data and evaluation: no verdict would be possible")
                for reason in reasons
            ]
        )
        raise_all(foreign_faults(plan.jobs))

    @property
    def budget_keys(self) -> tuple[str, ...]:
        """Config keys that differ because the budget says so."""
        return budget_keys(self.settings.budget)

    def sheet(self, plan: Plan) -> list[Difference]:
        """The differences between the arms' configs, before anything is run."""
        runs = [RunRecord(arm.name, plan.seeds[0], Path(), config=arm.measured) for arm in plan.arms]
        return fairness_sheet(runs, variables=self.words_of(plan), budget_keys=self.budget_keys)

    def plan_lines(self, plan: Plan) -> list[str]:
        """The plan in words."""
        common = [*self.settings.common, *self.settings.overrides]
        threads = self.slots[0].threads
        tuning = len(plan.arms) * len(self.settings.tune.lr)
        before = [f"before: {tuning} tuning runs for {LEARNING_RATE}, one per arm and rate"] if tuning and not self.rates else []
        matched = [twin.note for twin in self.twins]
        lines = plan_lines(plan, self.sheet(plan), budget=self.budget_text(plan), slots=len(self.slots), threads=threads, common=common)
        return [*lines, *matched, *before]

    def budget_text(self, plan: Plan) -> str:
        """The budget in words."""
        return budget_text(self.settings.budget, plan)

    def forecast_lines(self, plan: Plan) -> list[str]:
        """The forecast in words; rehearses arms of which nothing is known."""
        state = StudyState(plan.folder)
        seconds = job_seconds(plan, state, {})
        if any(job.id not in seconds for job in plan.jobs):
            seconds = job_seconds(plan, state, self._rehearse(plan))
        done = sum(map(is_done, plan.jobs))
        return forecast_lines(plan, seconds, makespan(plan, seconds, len(self.slots), skip=is_done), done)

    def known_seconds(self, plan: Plan, state: StudyState) -> dict[str, float]:
        """Expected seconds per job from what is known already; nothing is rehearsed for it."""
        return job_seconds(plan, state, {})

    def notes(self, plan: Plan) -> list[str]:
        """What a reader of the report must know."""
        notes = ["numbers are of the last epoch; no epoch was chosen by its score (best epochs have a table of their own)"]
        if all("scenes" in str(arm.config["data"].get("_target_")) for arm in plan.arms):
            notes.append("generated pictures: a diagnosis of mechanisms, no evidence about COCO or any other real data")
        notes += [twin.note for twin in self.twins]
        return [*notes, tuning_note(self.settings, self.rates)] if self.rates else notes

    def command(self, job: Job, slot: Slot) -> Command:
        """What runs ``job`` in ``slot``."""
        environment = {**tool_environment(), "PYTHONUNBUFFERED": "1", **slot.environment}
        words = (*job.words, *self._loader_words(job, slot))
        return Command(tool_command(job.tool, self.folders.flags, words), Runner.log_of(job), environment)

    def _loader_words(self, job: Job, slot: Slot) -> tuple[str, ...]:
        """Loader processes of a job that shares the cores with others; ``auto`` would take them all."""
        key = "loader.workers" if job.tool == "train" else "workers"
        if len(self.slots) == 1 or any(word.startswith(f"{key}=") for word in job.words):
            return ()
        return (f"{key}={0 if slot.threads <= 2 else min(8, slot.threads - 1)}",)

    def _rehearse(self, plan: Plan) -> dict[str, Rehearsal]:
        return rehearse_all(plan, self._rehearsal_command, self.launcher, lambda text: logger.info("%s", text))

    def _rehearsal_command(self, arm: PlannedArm, folder: Path, words: Sequence[str]) -> Command:
        seed = self.settings.seeds[0]
        all_words = (*arm.words, *words, f"seed={seed}", f"run_dir={folder}", "logger.progress=false")
        environment = {**tool_environment(), "PYTHONUNBUFFERED": "1", **self.slots[0].environment}
        return Command(tool_command("train", self.folders.flags, all_words), folder.with_name(f"{folder.name}.log"), environment)


def make_launcher(settings: CompareConfig, folder: Path) -> Launcher:
    """The launcher that the settings name."""
    if settings.launcher == "slurm":
        from fusion_det.compare.slurm import SlurmLauncher  # submitit is optional

        return SlurmLauncher(folder / "slurm", **settings.slurm)
    return LocalLauncher()


def check_buildable(plan: Plan) -> None:
    """Build every arm's parts once without memory or data; ``ConfigError`` for all that do not fit together."""
    from fusion_det.build import dry_run  # imports torch, which takes seconds

    faults: list[FusionDetError] = []
    seen: set[str] = set()
    for arm in plan.arms:
        if arm.training in seen:
            continue
        seen.add(arm.training)
        try:
            dry_run(arm.config)
        except FusionDetError as error:
            faults += [type(f)(f.what, where=f"arm {arm.name}: {f.where}", mend=f.mend) for f in getattr(error, "faults", [error])]
    raise_all(faults)


def _classes(arm: PlannedArm) -> int:
    from fusion_det.config.instantiate import build

    return len(build(arm.config["data"]).train.categories)


def _train_pictures(arm: PlannedArm) -> int:
    from fusion_det.config.instantiate import build

    return len(build(arm.config["data"]).train)
