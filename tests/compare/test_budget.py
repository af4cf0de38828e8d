"""Budgets: pictures, minutes, matched cost, tuned rates; each fixed once and kept, so that a study that goes on stays the same."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from fusion_det.compare import matched_arms, tune
from fusion_det.compare.budget import budget_text, budget_words, solve_budget
from fusion_det.compare.forecast import Rehearsal, job_seconds, makespan
from fusion_det.compare.matched_arms import matched_twins
from fusion_det.compare.plan import make_plan
from fusion_det.compare.state import StudyState
from fusion_det.config.cli import Folders, load_settings
from fusion_det.config.compare_schema import BudgetSettings, CompareConfig
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.errors import ConfigError, FusionDetError

FOLDERS = Folders(default_config_dir(), ())
SPEED = {"fpn": Rehearsal(100.0, 5.0, 1500, 300), "none": Rehearsal(210.0, 5.0, 1500, 300)}


@pytest.fixture(scope="module")
def base() -> CompareConfig:
    return load_settings(get_tool("compare"), ["arms=neck=fpn; neck=none", "seeds=0,1"], *FOLDERS)


@pytest.fixture
def settings(base, tmp_path) -> CompareConfig:
    return base.model_copy(update={"folder": str(tmp_path)})


def never():
    raise AssertionError("nothing is to be rehearsed")


def test_pictures_become_whole_epochs(settings):
    plan, budget = make_plan(settings, FOLDERS), BudgetSettings(pictures=4000)
    epochs = solve_budget(plan, budget, pictures=lambda arm: 1500, rehearse=never)
    assert epochs == {"fpn": 3, "none": 3}
    again = make_plan(settings, FOLDERS, budget_words(epochs))
    assert [arm.config["trainer"]["epochs"] for arm in again.arms] == [3, 3]
    assert budget_text(budget, again) == "4000 training pictures (3 epochs)"
    assert budget_text(BudgetSettings(), again) == "3 epochs"


def test_minutes_give_the_quicker_arm_more_epochs_and_are_kept(settings):
    plan, budget = make_plan(settings, FOLDERS), BudgetSettings(minutes=1.0)
    assert solve_budget(plan, budget, pictures=len, rehearse=lambda: SPEED) == {"fpn": 4, "none": 8}
    assert solve_budget(plan, budget, pictures=len, rehearse=never) == {"fpn": 4, "none": 8}
    again = make_plan(settings, FOLDERS, budget_words({"fpn": 4, "none": 8}))
    assert budget_text(budget, again) == "1 minutes of training, evaluation not counted (epochs: fpn 4, none 8)"
    with pytest.raises(ConfigError, match=r"arm fpn gets no epoch done in 0.2 minutes"):
        solve_budget(plan, BudgetSettings(minutes=0.2), pictures=len, rehearse=lambda: SPEED)


def test_the_forecast_prefers_finished_runs_and_fills_the_slots(settings):
    plan = make_plan(settings, FOLDERS)
    state = StudyState(plan.folder)
    seconds = job_seconds(plan, state, SPEED)
    assert seconds["fpn/seed0"] == pytest.approx(5 + 10 * 15 + 2 * 300 / 200)  # 10 epochs, evaluated every 5
    assert makespan(plan, seconds, 1, skip=lambda job: False) == pytest.approx(sum(seconds.values()))
    two = makespan(plan, seconds, 2, skip=lambda job: False)
    assert two == pytest.approx(sum(seconds.values()) / 2)
    state.update("fpn/seed0", status="done", seconds=33.0)
    state.update("none/seed0", status="interrupted", seconds=1.0)
    seconds = job_seconds(plan, state, {})
    assert seconds == {"fpn/seed0": 33.0, "fpn/seed1": 33.0}


def test_twins_at_matched_cost_are_solved_once(settings, monkeypatch, tmp_path):
    plan = make_plan(settings, FOLDERS)
    calls = []

    def solve(baseline, arm, **options):
        calls.append((baseline, arm, options["by"], options["num_classes"]))
        return SimpleNamespace(overrides=["neck.channels=96"], width=96, difference=-0.012)

    monkeypatch.setattr(matched_arms, "match_width", solve)
    (twin,) = matched_twins(plan, "flops", FOLDERS, classes=lambda arm: 9)
    assert calls == [(("neck=fpn",), ("neck=none",), "flops", 9)]
    assert twin.arm.name == "none-flops"
    assert twin.note == "none-flops is none at neck.channels=96, -1.2 % of the baseline's flops"
    again = make_plan(settings, FOLDERS, more=[twin.arm])
    assert again.arms[2].config["neck"]["channels"] == 96
    assert matched_twins(plan, "flops", FOLDERS, classes=lambda arm: 9) == [twin]
    assert len(calls) == 1


def finish(folder: Path, value: float | None) -> None:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"finished": True, "summary": {"AP": value}}))


def test_every_arm_is_tuned_on_the_same_grid(settings, monkeypatch):
    monkeypatch.setattr(tune, "record_in_optuna", lambda *_: None)
    tuned = settings.model_copy(update={"tune": settings.tune.model_copy(update={"lr": [0.001, 0.01], "epochs": 2})})
    plan = make_plan(tuned, FOLDERS)
    tuning = tune.tuning_plan(plan, tuned, FOLDERS)
    assert [job.id for job in tuning.jobs] == [f"{arm}-lr{rate}/seed1000" for arm in ("fpn", "none") for rate in ("0.001", "0.01")]
    assert [job.config["optimizer"]["lr"] for job in tuning.jobs] == [0.001, 0.01] * 2
    assert {job.config["trainer"]["epochs"] for job in tuning.jobs} == {2}
    assert {job.seed for job in tuning.jobs} == {1000}
    for job, value in zip(tuning.jobs, (0.3, 0.4, 0.5, 0.5), strict=True):
        finish(job.folder, value)
    chosen = tune.choose_rates(plan, tuning, tuned)
    assert chosen == {"fpn": 0.01, "none": 0.001}  # equal numbers: the smaller rate
    assert "fpn 0.01, none 0.001" in tune.tuning_note(tuned, chosen)
    finish(tuning.jobs[0].folder.with_name("x"), None)
    (tuning.jobs[0].folder / "results.json").unlink()
    with pytest.raises(FusionDetError, match=r"the tuning runs of fpn with 0.001 have no AP"):
        tune.choose_rates(plan, tuning, tuned)


def test_the_tuning_seed_is_none_of_the_study(settings):
    tuned = settings.model_copy(update={"tune": settings.tune.model_copy(update={"lr": [0.1], "seed": 1})})
    with pytest.raises(ConfigError, match="1 is a seed of the study too"):
        tune.tuning_plan(make_plan(tuned, FOLDERS), tuned, FOLDERS)


def test_optuna_keeps_the_grid(tmp_path):
    optuna = pytest.importorskip("optuna")
    for _ in range(2):
        tune.record_in_optuna(tmp_path / "o.db", "fpn", {0.1: 0.2, 0.01: 0.3})
    study = optuna.load_study(study_name="fpn", storage=f"sqlite:///{tmp_path / 'o.db'}")
    assert len(study.trials) == 2
    assert study.best_params == {"optimizer.lr": 0.01}
