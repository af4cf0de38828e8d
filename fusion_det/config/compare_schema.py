"""The keys of tools/compare.py; ``configs/compare.yaml`` repeats the defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from fusion_det.config.describe import Meaning
from fusion_det.config.schema import Metric, RunName, Settings

Words = str | list[str]
Arms = Annotated[
    str | list[str] | dict[str, Words],
    Meaning("overrides such as 'neck=fpn; neck=bifpn', a list of such texts, or a mapping of names to them"),
]


class BudgetSettings(Settings):
    """What every arm may spend; both null: the epochs of trainer.epochs."""

    pictures: PositiveInt | None = None
    """Training pictures that every run sees, rounded up to whole epochs."""
    minutes: PositiveFloat | None = None
    """Training time per run: each arm gets the whole epochs that fit, by a timed rehearsal."""
    match: Literal["params", "flops", "latency"] | None = None
    """Every other arm gets a twin whose neck is as wide as makes the detector cost what the baseline's does."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.pictures is not None and self.minutes is not None:
            raise ValueError("budget.pictures and budget.minutes exclude each other: set one of them to null")
        return self


class StatisticsSettings(Settings):
    """How differences are judged."""

    metric: Metric = "AP"
    """The number that the verdicts are about."""
    margin: NonNegativeFloat = 0.003
    """Equivalence margin in units of the metric (0.003 = 0.3 AP): differences inside it count as none."""
    resamples: Annotated[int, Field(ge=2)] = 2000
    """Bootstrap resamples."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the intervals, for all arms together (Holm)."""
    seed: NonNegativeInt = 0
    """Seed of the resamples."""
    bca: bool = False
    """BCa intervals too."""


class TuneSettings(Settings):
    """A learning rate for every arm, chosen from one grid before the study."""

    lr: list[PositiveFloat] = Field(default=[])
    """The grid, the same for every arm; empty: no tuning."""
    epochs: PositiveInt | None = None
    """Length of a tuning run; null: that of the study."""
    seed: NonNegativeInt = 1000
    """Seed of the tuning runs, none of the study's."""


class CompareConfig(Settings):
    """tools/compare.py."""

    name: RunName = "study"
    """Folder under runs/compare/."""
    folder: str | None = None
    """Explicit folder of the study; null: runs/compare/<name>."""
    arms: Arms = Field(default={})
    """What is compared: overrides of tools/train.py per arm."""
    baseline: str | None = None
    """Arm that the others are compared with; null: the first."""
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)] = Field(default=[0, 1, 2])
    """Each arm is trained once with each of them."""
    common: list[str] = Field(default=[])
    """Overrides of every arm."""
    overrides: list[str] = Field(default=[])
    """Those typed on the command line; they come last."""
    budget: BudgetSettings = BudgetSettings()
    """What every run may spend."""
    jobs: PositiveInt | Literal["auto"] = "auto"
    """Runs at a time; auto: one per GPU, or one."""
    retries: NonNegativeInt = 1
    """How often a run that failed is tried again."""
    launcher: Literal["local", "slurm"] = "local"
    """Where runs are started: as processes here, or as Slurm jobs (needs submitit)."""
    slurm: dict[str, Any] = Field(default={})
    """Parameters of submitit's executor, e.g. slurm.slurm_partition=gpu slurm.timeout_min=240."""
    forecast: bool = True
    """With --dry-run: rehearse each arm for a few steps to forecast the time."""
    tune: TuneSettings = TuneSettings()
    """Learning rate per arm."""
    statistics: StatisticsSettings = StatisticsSettings()
    """How differences are judged."""
    explain: bool = True
    """The report looks at one trained detector per arm too: levels, fusions, latency; some minutes, kept in the folder of the study."""
    runs: str | None = None
    """Finished run folders in place of arms: 'fpn=runs/a,runs/b; aff=runs/c,runs/d'."""
    gt: str | None = None
    """COCO annotation file of predictions."""
    predictions: str | None = None
    """COCO results files in place of arms: 'A=a0.json,a1.json; B=b0.json,b1.json'."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.gt is None) != (self.predictions is None):
            raise ValueError("gt and predictions go together: give both or none")
        given = [name for name, value in (("arms", self.arms), ("runs", self.runs), ("predictions", self.predictions)) if value]
        if not given:
            raise ValueError("nothing to compare: choose comparison=NAME, or give arms=, runs=, or gt= and predictions=")
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: give one of them")
        return self
