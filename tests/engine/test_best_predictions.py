"""The predictions of a run's best evaluation: kept beside the last ones, through crashes too, and never taken for those of another."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from fusion_det.engine import run as run_module
from fusion_det.engine.best import Best, keep_best
from fusion_det.engine.checkpoint import load_checkpoint, save_checkpoint
from fusion_det.engine.run import Run, train
from fusion_det.errors import FusionDetError

EACH_EPOCH = ("trainer.eval_every=1", "trainer.precision=fp32")


@pytest.fixture
def scored(monkeypatch):
    """AP of every evaluation, as a list that the test gives; scoring gives the numbers that it lists, epoch by epoch."""
    given: list[float] = []
    original, evaluate = run_module.score_predictions, Run._evaluate
    epochs: list[int] = []

    def evaluating(self):
        epochs.append(self.trainer.epoch)
        evaluate(self)

    def scoring(*args, **kwargs):
        metrics = original(*args, **kwargs)
        return replace(metrics, summary=metrics.summary | {"AP": given[epochs[-1] - 1]})

    monkeypatch.setattr(Run, "_evaluate", evaluating)
    monkeypatch.setattr(run_module, "score_predictions", scoring)
    return given


@pytest.fixture
def seen(monkeypatch):
    """The bytes of predictions.json after each evaluation, by epoch."""
    found: dict[int, bytes] = {}
    write = Run._write_results

    def writing(self, metrics, *, finished):
        found[self.evaluated] = (self.folder / "predictions.json").read_bytes()
        write(self, metrics, finished=finished)

    monkeypatch.setattr(Run, "_write_results", writing)
    return found


def best_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())["best"]


def check(folder: Path, epoch: int, content: bytes) -> None:
    assert (folder / "predictions_best.json").read_bytes() == content
    assert best_of(folder)["epoch"] == epoch
    assert best_of(folder)["predictions"] == hashlib.sha256(content).hexdigest()
    assert load_checkpoint(folder / "last.pt")["best"] == best_of(folder)


@pytest.mark.parametrize(("scores", "best"), [([0.1, 0.2, 0.3], 3), ([0.3, 0.1, 0.3], 1)])
def test_the_best_stays_when_later_ones_are_worse_or_equal(make_settings, tmp_path, scored, seen, scores, best):
    scored[:] = scores
    train(make_settings("run", *EACH_EPOCH), [])
    assert len({*seen.values()}) == 3  # else nothing is tested here
    check(tmp_path / "run", best, seen[best])
    assert load_checkpoint(tmp_path / "run" / "best.pt")["epoch"] == best


@pytest.mark.parametrize(("place", "crash_at"), [("keep_best", 2), ("_write_results", 2), ("_save", 2), ("_write_results", 3)])
def test_a_crash_while_it_is_kept_changes_nothing(make_settings, monkeypatch, tmp_path, scored, seen, crash_at, place):
    scored[:] = [0.1, 0.3, 0.2]
    owner = run_module if place == "keep_best" else Run
    original = getattr(owner, place)

    def crashing(*args, **kwargs):
        if place != "_save" or kwargs:  # only the save after an evaluation
            epoch = args[2] if place == "keep_best" else args[0].evaluated
            if epoch == crash_at:
                raise RuntimeError("the machine went away")
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, place, crashing)
        with pytest.raises(RuntimeError, match="went away"):
            train(make_settings("run", *EACH_EPOCH), [])
    train(make_settings("run", "resume=auto", *EACH_EPOCH), [])
    check(tmp_path / "run", 2, seen[2])


def test_a_run_of_an_older_version_goes_on(make_settings, monkeypatch, tmp_path, scored):
    scored[:] = [0.3, 0.2, 0.1]

    def crashing(self, trainer, means):
        if trainer.step == 6:
            raise RuntimeError("the machine went away")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_report", crashing)
        with pytest.raises(RuntimeError, match="went away"):
            train(make_settings("run", *EACH_EPOCH), [])
    folder = tmp_path / "run"
    state = load_checkpoint(folder / "last.pt")
    assert state["best"].pop("predictions")
    save_checkpoint(folder / "last.pt", state)
    (folder / "predictions_best.json").unlink()
    train(make_settings("run", "resume=auto", *EACH_EPOCH), [])
    assert (best_of(folder)["epoch"], best_of(folder)["predictions"]) == (1, "")
    assert not (folder / "predictions_best.json").exists()


def test_an_undefined_score_is_the_lowest():
    assert Best().is_beaten_by({"AP": None})
    assert not Best(1, {"AP": None}).is_beaten_by({"AP": None})
    assert Best(1, {"AP": None}).is_beaten_by({"AP": 0.1})


def test_a_disk_that_refuses_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "predictions.json").write_text("[]")
    keep_best(tmp_path, tmp_path / "predictions.json", 1, {"AP": 0.1})
    (tmp_path / "predictions.json").write_text("[1]")

    def refuse(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fusion_det.engine.best.write_atomic", refuse)
    with pytest.raises(FusionDetError, match="cannot keep the best predictions: No space left on device"):
        keep_best(tmp_path, tmp_path / "predictions.json", 2, {"AP": 0.2})
    assert (tmp_path / "predictions_best.json").read_text() == "[]"
