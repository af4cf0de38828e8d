"""A learning rate per arm, chosen from one grid: every arm gets the same number of tuning runs of the same length."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from fusion_det.compare.done import read_json
from fusion_det.compare.plan import Plan, make_plan
from fusion_det.config.cli import Folders
from fusion_det.config.compare_schema import CompareConfig
from fusion_det.config.run_folder import RESULTS
from fusion_det.errors import ConfigError, FusionDetError

logger = logging.getLogger(__name__)
KEY = "optimizer.lr"
TUNING = "tuning"


def tuning_plan(plan: Plan, settings: CompareConfig, folders: Folders) -> Plan:
    """The runs that choose: each arm with each rate, one seed that the study does not use. Raises ``ConfigError``."""
    if settings.tune.seed in settings.seeds:
        raise ConfigError(f"{settings.tune.seed} is a seed of the study too", where="tune.seed", mend="choose another one")
    epochs = [f"trainer.epochs={settings.tune.epochs}"] if settings.tune.epochs else []
    arms = {tuned_name(arm.name, rate): [*arm.arm.words, f"{KEY}={rate!r}"] for arm in plan.arms for rate in settings.tune.lr}
    changed = {
        "arms": arms, "baseline": None, "seeds": [settings.tune.seed], "folder": str(plan.folder / TUNING),
        "overrides": [*settings.overrides, *epochs],
    }  # fmt: skip
    return make_plan(settings.model_copy(update=changed), folders)


def tuned_name(arm: str, rate: float) -> str:
    """The name of a tuning run."""
    return f"{arm}-lr{rate:g}"


def choose_rates(plan: Plan, tuning: Plan, settings: CompareConfig) -> dict[str, float]:
    """The rate of each arm with the best number; equal numbers: the smaller rate. Every rate must have been tried on every arm."""
    metric, seed = settings.statistics.metric, settings.tune.seed
    chosen = {}
    for arm in plan.arms:
        scores = {rate: _score(tuning.folder_of(tuned_name(arm.name, rate), seed), metric) for rate in settings.tune.lr}
        if missing := [rate for rate, score in scores.items() if score is None]:
            what = f"the tuning runs of {arm.name} with {', '.join(map(str, missing))} have no {metric}"
            raise FusionDetError(what, where=str(tuning.folder), mend="see their logs; arms must not be tuned on unequal grids")
        chosen[arm.name] = min(scores, key=lambda rate: (-(scores[rate] or 0.0), rate))
        record_in_optuna(tuning.folder / "optuna.db", arm.name, {rate: score or 0.0 for rate, score in scores.items()})
    return chosen


def tuning_note(settings: CompareConfig, chosen: Mapping[str, float]) -> str:
    """What a reader must know of the tuning, its budget included."""
    length = f"{settings.tune.epochs} epochs" if settings.tune.epochs else "the study's epochs"
    rates = ", ".join(f"{arm} {rate:g}" for arm, rate in chosen.items())
    grid = f"{settings.tune.lr}, the same {len(settings.tune.lr)} runs of {length} with seed {settings.tune.seed} for each"
    return f"{KEY} was chosen per arm from {grid}, by {settings.statistics.metric} on the pictures that the study is judged on: {rates}"


def record_in_optuna(file: Path, arm: str, scores: Mapping[float, float]) -> None:
    """Keep the grid of ``arm`` as an Optuna study (for its dashboard and analysis), if Optuna is installed; nothing depends on it."""
    try:
        import optuna
    except ImportError:
        return
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    grid = {KEY: sorted(scores)}
    study = optuna.create_study(
        storage=f"sqlite:///{file}", study_name=arm, direction="maximize", load_if_exists=True, sampler=optuna.samplers.GridSampler(grid)
    )
    kept = {trial.params.get(KEY) for trial in study.trials}
    for rate in grid[KEY]:
        if rate not in kept:
            distribution = {KEY: optuna.distributions.CategoricalDistribution(grid[KEY])}
            study.add_trial(optuna.trial.create_trial(params={KEY: rate}, distributions=distribution, value=scores[rate]))


def _score(folder: Path, metric: str) -> float | None:
    value = ((read_json(folder / RESULTS) or {}).get("summary") or {}).get(metric)
    return float(value) if isinstance(value, int | float) else None
