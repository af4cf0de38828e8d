"""One budget for all arms: epochs, training pictures, or training time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from fusion_det.compare.done import read_json
from fusion_det.compare.forecast import Rehearsal
from fusion_det.compare.plan import Plan, PlannedArm
from fusion_det.config.compare_schema import BudgetSettings
from fusion_det.config.differences import digest
from fusion_det.config.files import write_json
from fusion_det.errors import ConfigError, raise_all

BUDGET = "budget.json"


def is_given(budget: BudgetSettings) -> bool:
    """Whether epochs must be solved for."""
    return budget.pictures is not None or budget.minutes is not None


def solve_budget(
    plan: Plan, budget: BudgetSettings, *, pictures: Callable[[PlannedArm], int], rehearse: Callable[[], Mapping[str, Rehearsal]]
) -> dict[str, int]:
    """The epochs of each arm.

    By pictures: as many whole epochs as are needed to see that many; ``pictures`` tells how many an arm trains on. By time: as many as fit,
    at the speed that ``rehearse`` shows; every arm has its whole learning-rate schedule. What was found is kept in ``budget.json``: a study
    that goes on must not change its lengths.
    Raises ``ConfigError`` for arms whose first epoch does not fit.
    """
    path = plan.folder / BUDGET
    known: dict[str, Any] = read_json(path) or {}
    keys = {arm.name: f"{digest(budget.plain())}-{arm.training}" for arm in plan.arms}
    if any(key not in known for key in keys.values()):
        if budget.pictures is not None:
            epochs = {arm.name: max(1, math.ceil(budget.pictures / pictures(arm))) for arm in plan.arms}
        else:
            seconds = 60 * (budget.minutes or 0.0)
            seen = rehearse()
            epochs = {name: math.floor(seconds * found.images_per_second / found.train_images) for name, found in seen.items()}
        raise_all(
            [
                ConfigError(f"arm {name} gets no epoch done in {budget.minutes:g} minutes", where="budget.minutes", mend="give more")
                for name, number in epochs.items()
                if number < 1
            ]
        )
        known |= {keys[name]: number for name, number in epochs.items() if keys[name] not in known}
        write_json(path, known)
    return {arm.name: int(known[keys[arm.name]]) for arm in plan.arms}


def budget_words(epochs: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """The overrides that give each arm its length."""
    return {name: (f"trainer.epochs={number}",) for name, number in epochs.items()}


def budget_keys(budget: BudgetSettings) -> tuple[str, ...]:
    """Config keys by which arms may differ because the budget says so."""
    return ("trainer.epochs",) if budget.minutes is not None else ()


def budget_text(budget: BudgetSettings, plan: Plan) -> str:
    """The budget in words."""
    epochs = {arm.name: arm.config["trainer"]["epochs"] for arm in plan.arms}
    each = ", ".join(f"{name} {number}" for name, number in epochs.items())
    if budget.minutes is not None:
        return f"{budget.minutes:g} minutes of training, evaluation not counted (epochs: {each})"
    same = len(set(epochs.values())) == 1
    told = f"{next(iter(epochs.values()))} epochs" if same else f"unequal epochs: {each}"
    return f"{budget.pictures} training pictures ({told})" if budget.pictures is not None else told
