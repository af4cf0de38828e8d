"""A run from settings to results, and stopping and going on anywhere."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

import fusion_det
from fusion_det.build import build_detector
from fusion_det.engine import run as run_module
from fusion_det.engine.checkpoint import load_checkpoint, save_checkpoint
from fusion_det.engine.resume import initialise_from
from fusion_det.engine.run import train
from fusion_det.engine.signals import Interrupted, StopRequest
from fusion_det.engine.trainer import Trainer
from fusion_det.errors import CheckpointError, ConfigError, ExpectationError, FusionDetError

STEPS = 12  # 8 pictures in 3 buckets at batch size 2 are 4 batches an epoch


def tensors(value, path=""):
    """Every tensor and number of a checkpoint by its path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from tensors(item, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        for key, item in enumerate(value):
            yield from tensors(item, f"{path}/{key}")
    else:
        yield path, value


def assert_equal_state(a: dict, b: dict):
    left, right = dict(tensors(a)), dict(tensors(b))
    assert left.keys() == right.keys()
    different = [
        k for k in left if k not in ("/config/run_dir", "/config/resume") and not (
            torch.equal(left[k], right[k]) if isinstance(left[k], torch.Tensor) else left[k] == right[k]
        )
    ]  # fmt: skip
    assert not different, different[:5]


def log_lines(folder: Path):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "time" and not k.startswith("perf/")} for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(coco_root, tmp_path_factory):
    """One finished run, shared: (folder, final state)."""
    from tests_engine_settings import SMALL

    from fusion_det.config.cli import load_settings
    from fusion_det.config.tools import default_config_dir, get_tool

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "whole"
    words = [*SMALL, f"data.root={coco_root}", f"run_dir={folder}"]
    train(load_settings(get_tool("train"), words, default_config_dir()), words)
    return folder, load_checkpoint(folder / "last.pt")


def stop_after(monkeypatch, step: int, number: int = signal.SIGTERM):
    """Deliver ``number`` to the process during training step ``step``."""
    original = Trainer.train_step

    def stepping(self, group):
        original(self, group)
        if self.step == step:
            signal.raise_signal(number)

    monkeypatch.setattr(Trainer, "train_step", stepping)


def test_a_run_leaves_everything_that_is_promised(uninterrupted):
    folder, state = uninterrupted
    records = (
        "config.yaml",
        "overrides.yaml",
        "environment.json",
        "metrics.jsonl",
        "results.json",
        "predictions.json",
        "predictions_best.json",
        "neck.svg",
    )
    for name in (*records, "last.pt", "best.pt"):
        assert (folder / name).is_file(), name
    assert list((folder / "tensorboard").iterdir())
    assert {p.name.rsplit("_", 1)[0] for p in (folder / "pictures").iterdir()} == {"train_first_batch", "val_sample_0"}
    results = json.loads((folder / "results.json").read_text())
    assert results["finished"] is True
    assert len(results["summary"]) == 12
    assert set(results["per_class"]) == {"red", "green", "blue"}
    assert state["step"] == STEPS
    assert state["category_ids"] == [0, 7, 90]
    assert (state["epoch"], state["evaluated"]) == (3, 3)
    lines = log_lines(folder)
    assert [line["step"] for line in lines if "train/loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in lines if "val/AP" in line] == [8, 12]
    assert {"train/loss_cls", "train/loss_box", "train/loss_centerness", "train/lr", "train/grad_norm"} <= lines[0].keys()
    perf = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(line["perf/images_per_s"] > 0 and line["perf/data_time"] >= 0 for line in perf if "train/loss" in line)
    predictions = json.loads((folder / "predictions.json").read_text())
    assert {p["category_id"] for p in predictions} <= {0, 7, 90}
    assert {p["level"] for p in predictions} <= {"P3", "P4", "P5"}


@pytest.mark.parametrize("step", [1, 4, 7, 8, 11])
def test_stopped_and_resumed_equals_uninterrupted(uninterrupted, make_settings, monkeypatch, tmp_path, step):
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(Interrupted) as stopped:
            train(make_settings("stopped"), [])
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert load_checkpoint(tmp_path / "stopped" / "last.pt")["step"] == step
    train(make_settings("stopped", "resume=auto"), [])
    folder, state = uninterrupted
    assert_equal_state(state, load_checkpoint(tmp_path / "stopped" / "last.pt"))
    assert log_lines(tmp_path / "stopped") == log_lines(folder)
    for name in ("predictions.json", "predictions_best.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (folder / name).read_bytes()


def test_a_crash_during_evaluation_repeats_only_the_evaluation(uninterrupted, make_settings, monkeypatch, tmp_path):
    def crash(*args, **kwargs):
        raise RuntimeError("the machine went away")

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "score_predictions", crash)
        with pytest.raises(RuntimeError, match="went away"):
            train(make_settings("crashed"), [])
    assert load_checkpoint(tmp_path / "crashed" / "last.pt")["step"] == 8
    train(make_settings("crashed", "resume=auto"), [])
    assert_equal_state(uninterrupted[1], load_checkpoint(tmp_path / "crashed" / "last.pt"))


def test_damaged_last_falls_back_to_the_one_before(uninterrupted, make_settings, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(Interrupted):
            train(make_settings("damaged"), [])
    last = tmp_path / "damaged" / "last.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    train(make_settings("damaged", "resume=auto"), [])
    assert_equal_state(uninterrupted[1], load_checkpoint(last))


def test_another_seed_gives_another_run_and_the_same_seed_the_same(uninterrupted, make_settings, tmp_path):
    train(make_settings("again"), [])
    assert_equal_state(uninterrupted[1], load_checkpoint(tmp_path / "again" / "last.pt"))
    train(make_settings("other", "seed=1", "trainer.epochs=1"), [])
    a, b = (load_checkpoint(tmp_path / name / "last.pt")["model"]["head.class_logits.weight"] for name in ("again", "other"))
    assert not torch.equal(a, b)


def test_accumulation_counts_optimizer_steps(make_settings, tmp_path):
    train(make_settings("accumulated", "trainer.accumulate=3", "trainer.epochs=2"), [])
    state = load_checkpoint(tmp_path / "accumulated" / "last.pt")
    assert state["step"] == 2 * 2  # four batches an epoch: three and one
    assert state["schedule"]["last_epoch"] == 4


def test_resume_refuses_another_config_and_other_classes(uninterrupted, make_settings, tmp_path):
    folder, state = uninterrupted
    with pytest.raises(FusionDetError) as refused:
        train(make_settings("x", f"resume={folder / 'last.pt'}", "optimizer.lr=0.5", "neck.channels=32"), [])
    assert refused.value.exit_code == 2
    assert [line.split(":")[0] for line in refused.value.lines] == ["neck.channels", "optimizer.lr"]
    save_checkpoint(tmp_path / "foreign.pt", state | {"class_names": ["red", "green"]})
    with pytest.raises(CheckpointError, match=r"trained on 2 classes .* the data has 3"):
        train(make_settings("y", f"resume={tmp_path / 'foreign.pt'}"), [])


def test_a_finished_run_stays_as_it_is(uninterrupted, make_settings, tmp_path):
    import shutil

    shutil.copytree(uninterrupted[0], tmp_path / "done")
    before = (tmp_path / "done" / "last.pt").read_bytes()
    train(make_settings("done", "resume=auto"), [])
    assert (tmp_path / "done" / "last.pt").read_bytes() == before


def test_init_from_takes_what_fits(uninterrupted, make_settings, tmp_path, caplog):
    with caplog.at_level("INFO", logger="fusion_det"):
        train(make_settings("tuned", f"init_from={uninterrupted[0] / 'best.pt'}", "head.num_convs=2", "trainer.epochs=1"), [])
    assert "tensors taken" in caplog.text
    assert "missing in the file" in caplog.text


@pytest.mark.parametrize("resume", ["null", "auto"])
def test_init_from_counts_where_nothing_is_resumed(uninterrupted, make_settings, tmp_path, resume):
    source = uninterrupted[0] / "best.pt"
    train(make_settings("started", f"init_from={source}", f"resume={resume}", "optimizer.lr=1e-30", "trainer.epochs=1"), [])
    given, trained = (load_checkpoint(path) for path in (source, tmp_path / "started" / "last.pt"))
    given = given["ema"] or given["model"]
    assert all(
        torch.equal(given[name], value) for name, value in trained["model"].items() if "running" not in name and "num_batches" not in name
    )


def test_init_from_can_spare_parts(uninterrupted, make_settings):
    source = uninterrupted[0] / "best.pt"
    state = load_checkpoint(source)
    given = state["ema"] or state["model"]
    settings = make_settings("parts", f"init_from={source}", "init_parts=[backbone,head]")
    model = build_detector(settings.plain(), len(state["class_names"]), seed=5)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    initialise_from(source, model, parts=settings.init_parts)
    for name, tensor in model.state_dict().items():
        expected = fresh if name.startswith("neck.") else given
        assert torch.equal(tensor, expected[name]), name
    assert any(not torch.equal(fresh[name], given[name]) for name in fresh if name.startswith("neck."))


def test_non_finite_loss_names_step_term_and_images(make_settings, monkeypatch, tmp_path):
    original = Trainer.train_step

    def poisoned(self, group):
        if self.step == 5:
            self.model.head.centerness.bias.data.fill_(float("nan"))
        original(self, group)

    monkeypatch.setattr(Trainer, "train_step", poisoned)
    with pytest.raises(FusionDetError, match=r"step 6: not finite: loss_centerness=nan on images \[1\d, 1\d\]") as stopped:
        train(make_settings("poisoned"), [])
    assert stopped.value.exit_code == 1
    state = load_checkpoint(tmp_path / "poisoned" / "last.pt")
    assert state["step"] == 4
    assert all(torch.isfinite(v).all() for v in state["model"].values() if v.is_floating_point())


def test_expectations_end_the_run_with_their_own_code(make_settings):
    with pytest.raises(ExpectationError, match=r"AP is .* expected 0.9") as missed:
        train(make_settings("hopes", "trainer.epochs=1", "eval.expect.AP=[0.9,0.01]"), [])
    assert missed.value.exit_code == 4


def test_levels_that_do_not_exist_are_refused_before_data(make_settings, tmp_path):
    with pytest.raises(ConfigError, match=r"first_stride 4?8? ?.*"):
        train(make_settings("x", "backbone.first_stride=64", "data.root=/nowhere"), [])
    with pytest.raises(ConfigError, match="stride 64 is not among the backbone's strides"):
        train(make_settings("y", "neck=single", "neck.topology.stride=64", "data.root=/nowhere"), [])
    assert not (tmp_path / "y").exists()


def test_gpu_asked_for_and_absent(make_settings, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="cuda:1 was asked for, but torch sees no GPU"):
        train(make_settings("z", "device=cuda:1"), [])


def test_the_second_signal_acts_at_once():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with SIGINT ignored
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.number == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_load_predicts_without_anything_but_the_checkpoint(uninterrupted, coco_root):
    import numpy as np
    from PIL import Image

    detector = fusion_det.load(uninterrupted[0] / "best.pt", device="cpu")
    assert detector.class_names == ("red", "green", "blue")
    path = sorted((coco_root / "val").iterdir())[0]
    picture = Image.open(path).convert("RGB")
    array = np.asarray(picture)
    kinds = [path, str(path), picture, array, torch.from_numpy(array.copy()).movedim(-1, 0)]
    found = detector.predict(kinds, score_threshold=0.0, batch_size=5)
    assert len(found) == 5
    assert len(found[0].scores) > 0
    for other in found[1:]:
        assert torch.allclose(found[0].boxes, other.boxes, atol=1e-3)
    single = detector.predict(path, score_threshold=0.0, batch_size=1)
    assert torch.allclose(single[0].scores[:5], found[0].scores[:5], atol=1e-4)
    assert set(found[0].category_ids) <= {0, 7, 90}
    assert found[0].boxes[:, 2].max() <= picture.width
    with pytest.raises(FusionDetError, match="give uint8 RGB"):
        detector.predict(torch.zeros(3, 8, 8))
