"""What a run tells about its fusions: scalars, pictures, TensorBoard, and a warning about dead inputs."""

from __future__ import annotations

import json

import pytest

from fusion_det.engine.checkpoint import load_checkpoint
from fusion_det.engine.run import Run, train
from fusion_det.fusion.operator import Remembers


def fusion_scalars(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k.startswith("fusion/")} for line in lines if "val/AP" in line]


def pictures(folder):
    return {path.name for path in (folder / "pictures").iterdir() if path.name.startswith("fusion")}


def test_a_run_logs_weights_and_draws_gates(make_settings, tmp_path, monkeypatch):
    models = []
    make_trainer = Run._make_trainer
    monkeypatch.setattr(Run, "_make_trainer", lambda run, **given: (make_trainer(run, **given), models.append(run.trainer)))
    train(make_settings("run", "fusion=aff", "trainer.epochs=2", "trainer.eval_every=1"), [])
    folder = tmp_path / "run"
    scalars = fusion_scalars(folder)
    assert len(scalars) == 2
    names = {"neck/M4/C4", "neck/M4/C5", "neck/M4/entropy", "neck/M3/C3", "neck/M3/M4", "neck/M3/entropy"}
    assert {f"fusion/{name}" for name in names} == scalars[0].keys() == scalars[1].keys()
    for values in scalars:
        assert values["fusion/neck/M4/C4"] + values["fusion/neck/M4/C5"] == pytest.approx(2.0, abs=1e-5)  # AFF's factor two
        assert 0.5 < values["fusion/neck/M3/entropy"] <= 1.0
    assert scalars[0] != scalars[1]
    assert pictures(folder) == {f"fusion_{name}_{step:08d}.png" for name in ("weights", "gates_0") for step in (4, 8)}
    assert not any("remembered" in name or "gate" in name.rsplit(".", 1)[-1] for name in load_checkpoint(folder / "last.pt")["model"])
    for model in (models[0].model, models[0].evaluated_model):
        assert not any(part.remembers for part in model.modules() if isinstance(part, Remembers))
    tags = _tensorboard_tags(folder)
    assert {"fusion/weights", "fusion/gates_0"} <= set(tags["images"])
    assert "fusion/neck/M3/entropy" in tags["scalars"]


def _tensorboard_tags(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events.Tags()


def test_no_pictures_if_none_are_wanted_and_none_without_a_decision(make_settings, tmp_path):
    once = ["trainer.epochs=1", "logger.tensorboard=false"]
    train(make_settings("plain", "fusion=add", *once), [])
    assert (fusion_scalars(tmp_path / "plain"), pictures(tmp_path / "plain")) == ([{}], set())
    train(make_settings("silent", "fusion=weighted_softmax", "trainer.pictures=0", *once), [])
    assert len(fusion_scalars(tmp_path / "silent")[0]) == 6
    assert pictures(tmp_path / "silent") == set()


def test_a_dead_input_is_warned_about_once_per_run(make_settings, monkeypatch, caplog):
    make_trainer = Run._make_trainer

    def with_dead_input(run, **given):
        make_trainer(run, **given)
        for model in (run.trainer.model, run.trainer.ema.module):
            model.neck.operators["M4"].edge_weights.data[1] = -1.0

    monkeypatch.setattr(Run, "_make_trainer", with_dead_input)
    with caplog.at_level("WARNING", logger="fusion_det"):
        train(make_settings("dead", "fusion=weighted_fast", "trainer.epochs=2", "trainer.eval_every=1"), [])
    warned = [record.getMessage() for record in caplog.records if "dead input" in record.getMessage()]
    assert len(warned) == 1
    assert "neck/M4 (P4, stride 16, WeightedFast) does not use C5" in warned[0]
    assert "4 validation pictures; try another fusion=" in warned[0]
