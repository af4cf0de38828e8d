"""From arms, seeds and overrides to jobs: every config is composed and checked before anything starts, all faults at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusion_det.compare.arms import Arm, check_words, parse_arms
from fusion_det.config.cli import Folders, load_settings
from fusion_det.config.compare_schema import CompareConfig
from fusion_det.config.differences import digest
from fusion_det.config.overrides import quote, split
from fusion_det.config.run_folder import CHECKPOINT
from fusion_det.config.tools import get_tool
from fusion_det.errors import ConfigError, FusionDetError, raise_all

HARMLESS = (
    "name", "run_dir", "resume", "device", "logger", "data.root", "loader.workers", "loader.eval_batch_size",
    "trainer.log_every", "trainer.checkpoint_every", "trainer.keep_checkpoints", "trainer.pictures",
)  # fmt: skip
"""Keys by which two runs may differ and still be the same run."""
AFTER_TRAINING = ("late_fusion",)
"""Keys that change nothing before the detector is trained: arms that differ only in them share one training run per seed."""
VIEWS = "tta"
"""Key of tools/evaluate.py that an arm may have too."""


@dataclass(frozen=True)
class PlannedArm:
    """An arm with its resolved config (of the first seed)."""

    arm: Arm
    config: dict[str, Any]
    words: tuple[str, ...]
    """All overrides of its training runs but those of the seed and folder."""
    views: tuple[str, ...] = ()
    """Overrides of its evaluation, ``tta.*``."""

    @property
    def name(self) -> str:
        return self.arm.name

    @property
    def measured(self) -> dict[str, Any]:
        """The config with the views of its evaluation, as fairness sheets compare it."""
        views = {split(word).key.removeprefix(f"{VIEWS}."): split(word).value for word in self.views}
        return self.config | ({VIEWS: views} if views else {})

    @property
    def training(self) -> str:
        """Equal for arms that can share their training runs."""
        return digest(self.config, free=(*HARMLESS, "seed", *AFTER_TRAINING))

    @property
    def identity(self) -> str:
        """Equal for arms between which there is no difference at all."""
        return digest({"config": self.config, "views": list(self.views)}, free=tuple(f"config.{key}" for key in (*HARMLESS, "seed")))


@dataclass(frozen=True)
class Job:
    """One process to run: a training, or an evaluation of a shared training."""

    id: str
    arm: str
    seed: int
    tool: str
    folder: Path
    words: tuple[str, ...]
    config: dict[str, Any] = field(repr=False)
    needs: tuple[str, ...] = ()
    """Ids of the jobs that must be done before."""


@dataclass(frozen=True)
class Plan:
    """All that will be run."""

    folder: Path
    arms: tuple[PlannedArm, ...]
    seeds: tuple[int, ...]
    baseline: str
    jobs: tuple[Job, ...]

    def folder_of(self, arm: str, seed: int) -> Path:
        """Where the results of one arm and seed lie, whoever trained them."""
        return self.folder / "runs" / arm / f"seed{seed}"


def study_folder(settings: CompareConfig) -> Path:
    """Where everything of the study goes."""
    return Path(settings.folder) if settings.folder else Path("runs") / "compare" / settings.name


def make_plan(
    settings: CompareConfig, folders: Folders, extra: Mapping[str, Sequence[str]] | None = None, more: Sequence[Arm] = ()
) -> Plan:
    """The plan of ``settings`` and ``more`` arms; ``extra`` overrides per arm come last (epochs of a budget, a tuned learning rate).

    Raises ``ConfigError`` for all faults of all arms at once, among them arms that are the same.
    """
    arms = [*parse_arms(settings.arms), *more]
    faults: list[FusionDetError] = [*check_words(settings.common, "common"), *check_words(settings.overrides, "command line")]
    if len(set(settings.seeds)) < len(settings.seeds):
        faults.append(ConfigError(f"a seed occurs twice: {settings.seeds}", where="seeds", mend="one run would be counted as two"))
    baseline = _baseline(settings, arms, faults)
    planned, found = [], []
    for arm in arms:
        try:
            planned.append(_resolve(arm, settings, folders, (extra or {}).get(arm.name, ())))
        except FusionDetError as error:
            found += [(arm.name, fault) for fault in getattr(error, "faults", [error])]
    faults += _grouped(found, len(arms))
    raise_all(faults)
    raise_all(_identical(planned))
    folder = study_folder(settings)
    return Plan(folder, tuple(planned), tuple(settings.seeds), baseline, tuple(_jobs(planned, settings.seeds, folder)))


def _baseline(settings: CompareConfig, arms: Sequence[Arm], faults: list[FusionDetError]) -> str:
    if settings.baseline is None:
        return arms[0].name
    for arm in arms:
        if settings.baseline == arm.name or tuple(settings.baseline.split()) == arm.words:
            return arm.name
    names = ", ".join(arm.name for arm in arms)
    faults.append(ConfigError(f"no arm {settings.baseline!a}", where="baseline", mend=f"arms: {names}"))
    return arms[0].name


def _resolve(arm: Arm, settings: CompareConfig, folders: Folders, extra: Sequence[str]) -> PlannedArm:
    views = tuple(word for word in arm.words if split(word).key.partition(".")[0] == VIEWS)
    own = [word for word in arm.words if word not in views]
    words = (*settings.common, *own, *settings.overrides, *extra)
    faults: list[FusionDetError] = []
    try:
        if views:  # any existing file stands for the checkpoint, which is yet to be trained
            load_settings(get_tool("evaluate"), [*views, f"checkpoint={folders.config_dir / 'evaluate.yaml'}"], *folders)
    except FusionDetError as error:
        faults += getattr(error, "faults", [error])
    try:
        config = load_settings(get_tool("train"), [*words, f"seed={settings.seeds[0]}"], *folders).plain()
    except FusionDetError as error:
        faults += getattr(error, "faults", [error])
    raise_all(faults)
    return PlannedArm(arm, config, words, views)


def _grouped(found: Sequence[tuple[str, FusionDetError]], count: int) -> list[FusionDetError]:
    """A fault of every arm is told once, any other with the arms that have it."""
    arms_of: dict[str, list[str]] = {}
    for arm, fault in found:
        arms_of.setdefault(fault.lines[0], []).append(arm)
    faults = {fault.lines[0]: fault for _, fault in found}
    told = []
    for line, arms in arms_of.items():
        fault = faults[line]
        where = fault.where if len(arms) == count else f"arm {', '.join(arms)}: {fault.where}".removesuffix(": ")
        told.append(type(fault)(fault.what, where=where, mend=fault.mend))
    return told


def _identical(arms: Sequence[PlannedArm]) -> list[ConfigError]:
    first: dict[str, str] = {}
    faults = []
    for arm in arms:
        if arm.identity in first:
            what = f"the arms {first[arm.identity]} and {arm.name} are the same: their resolved configs do not differ"
            faults.append(
                ConfigError(what, where="arms", mend="change one of them; an override typed for all arms may have made them equal")
            )
        first.setdefault(arm.identity, arm.name)
    return faults


def _jobs(arms: Sequence[PlannedArm], seeds: Sequence[int], folder: Path) -> list[Job]:
    """Seed by seed, so that a study stopped early has each arm equally often."""
    groups: dict[str, list[PlannedArm]] = {}
    for arm in arms:
        groups.setdefault(arm.training, []).append(arm)
    jobs = []
    for seed in seeds:
        for members in groups.values():
            owner = members[0]
            shared = len(members) > 1 or bool(owner.views)
            name = f"_shared-{owner.name}" if shared else owner.name
            train = _training(owner, name, seed, folder / "runs" / name / f"seed{seed}")
            jobs.append(train)
            if shared:
                jobs += [_evaluation(arm, train, folder / "runs" / arm.name / f"seed{seed}") for arm in members]
    return jobs


def _training(arm: PlannedArm, name: str, seed: int, folder: Path) -> Job:
    words = (*arm.words, f"seed={seed}", f"run_dir={folder}", "resume=auto", "logger.progress=false")
    return Job(f"{name}/seed{seed}", arm.name, seed, "train", folder, words, arm.config | {"seed": seed})


def _evaluation(arm: PlannedArm, train: Job, folder: Path) -> Job:
    config = arm.config
    words = (
        f"checkpoint={train.folder / CHECKPOINT}",
        f"output={folder}",
        f"late_fusion={as_text(config['late_fusion'])}",
        *arm.views,
        f"device={config['device']}",
        f"batch_size={config['loader']['eval_batch_size']}",
        f"use_ema={as_text(config['eval']['use_ema'])}",
    )
    return Job(f"{arm.name}/seed{train.seed}", arm.name, train.seed, "evaluate", folder, words, config | {"seed": train.seed}, (train.id,))


def as_text(value: Any) -> str:
    """Plain containers in Hydra's grammar."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_text, value))}]"
    if isinstance(value, str):
        return quote(value)
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else repr(value)
