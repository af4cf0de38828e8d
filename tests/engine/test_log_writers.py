"""The log of a run: one line per call, no step twice after a resume, and no fault of the log reaches training."""

import json
import logging
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fusion_det.engine import log_writers as module
from fusion_det.engine.log_writers import RunLog

PICTURE = torch.arange(3 * 8 * 10, dtype=torch.uint8).reshape(3, 8, 10)


def lines(folder) -> list[dict]:
    return [json.loads(line, parse_constant=pytest.fail) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


class TestMetricsFile:
    def test_lines_are_there_at_once_with_step_time_and_tags(self, tmp_path):
        log = RunLog(tmp_path, tensorboard=False)
        log.scalars(1, {"train/loss": 2.5, "train/lr": torch.tensor(0.125)})
        log.scalars(2, {"val/AP": np.float32(0.5)})
        first, second = lines(tmp_path)  # before close: a kill loses nothing
        assert {**first, "time": 0} == {"step": 1, "time": 0, "train/loss": 2.5, "train/lr": 0.125}
        assert {**second, "time": 0} == {"step": 2, "time": 0, "val/AP": 0.5}
        assert second["time"] >= first["time"] > 1.6e9
        log.close()
        log.close()
        log.scalars(3, {"x": 1.0})
        assert len(lines(tmp_path)) == 2

    def test_non_finite_is_null(self, tmp_path):
        log = RunLog(tmp_path, tensorboard=False)
        log.scalars(1, {"a": float("nan"), "b": float("inf"), "c": 1.0})
        assert {**lines(tmp_path)[0], "time": 0} == {"step": 1, "time": 0, "a": None, "b": None, "c": 1.0}
        with pytest.raises(ValueError, match="reserved"):
            log.scalars(1, {"step": 1.0})

    def test_resume_drops_later_steps_and_torn_lines(self, tmp_path):
        log = RunLog(tmp_path, tensorboard=False)
        for step in (10, 20, 20, 30, 40):
            log.scalars(step, {"train/loss": float(step)})
        log.close()
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 5, "train/lo')
        log = RunLog(tmp_path, tensorboard=False, resume_step=20)
        assert [line["step"] for line in lines(tmp_path)] == [10, 20, 20]
        log.scalars(30, {"train/loss": 31.0})
        assert [(line["step"], line["train/loss"]) for line in lines(tmp_path)] == [(10, 10.0), (20, 20.0), (20, 20.0), (30, 31.0)]

    def test_resume_into_an_empty_folder(self, tmp_path):
        RunLog(tmp_path, tensorboard=False, resume_step=20).scalars(30, {"x": 1.0})
        assert [line["step"] for line in lines(tmp_path)] == [30]

    def test_a_new_run_keeps_the_old_file_aside(self, tmp_path):
        RunLog(tmp_path, tensorboard=False).scalars(1, {"x": 1.0})
        RunLog(tmp_path, tensorboard=False).scalars(2, {"x": 2.0})
        assert [line["step"] for line in lines(tmp_path)] == [2]
        assert json.loads((tmp_path / "metrics.previous.jsonl").read_text())["step"] == 1

    def test_a_full_disk_gives_one_warning_and_whole_lines_afterwards(self, tmp_path, monkeypatch, caplog):
        log = RunLog(tmp_path, tensorboard=False)
        log.scalars(1, {"x": 1.0})
        real = os.write

        def full(descriptor, data):
            real(descriptor, data[:10])
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(module.os, "write", full)
            for step in (2, 3):
                log.scalars(step, {"x": 1.0})
        log.scalars(4, {"x": 1.0})
        assert len(caplog.records) == 1
        assert "No space left" in caplog.text
        whole = [line for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if line.endswith("}")]
        assert [json.loads(line)["step"] for line in whole] == [1, 4]

    def test_a_folder_that_cannot_be_written(self, tmp_path, caplog):
        log = RunLog(tmp_path / "missing", tensorboard=False)
        log.scalars(1, {"x": 1.0})
        log.picture("a", 1, PICTURE)
        log.close()
        assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2  # the metrics and the pictures, once each


class TestPictures:
    def test_png_with_a_safe_name(self, tmp_path):
        log = RunLog(tmp_path, tensorboard=False)
        log.picture("val/../../<b>sample 3", 120, PICTURE)
        log.picture("..", 1, PICTURE)
        names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
        assert names == ["picture_00000001.png", "val_.._.._b_sample_3_00000120.png"]
        assert np.array_equal(np.array(Image.open(tmp_path / "pictures" / names[1])), PICTURE.permute(1, 2, 0).numpy())


class TestTensorBoard:
    def test_scalars_pictures_texts_and_resume(self, tmp_path):
        log = RunLog(tmp_path, tensorboard=True)
        for step in (10, 20, 30):
            log.scalars(step, {"train/loss": step / 2})
        log.scalars(30, {"train/bad": float("nan")})
        log.picture("val/sample", 10, PICTURE)
        log.text("config", 0, "a: 1")
        log.close()
        assert events(tmp_path, "train/loss") == [(10, 5.0), (20, 10.0), (30, 15.0)]
        assert np.isnan(events(tmp_path, "train/bad")[0][1])

        log = RunLog(tmp_path, tensorboard=True, resume_step=20)
        log.scalars(30, {"train/loss": 99.0})
        log.close()
        assert events(tmp_path, "train/loss") == [(10, 5.0), (20, 10.0), (30, 99.0)]
        assert len(list((tmp_path / "tensorboard").iterdir())) == 2  # a new file, never an old one appended to

    def test_foreign_files_in_its_folder_do_not_matter(self, tmp_path):
        (tmp_path / "tensorboard").mkdir()
        (tmp_path / "tensorboard" / "events.out.tfevents.1.x").write_bytes(b"\xff" * 100)
        log = RunLog(tmp_path, tensorboard=True)
        log.scalars(1, {"x": 1.0})
        log.close()
        assert len(list((tmp_path / "tensorboard").iterdir())) == 2

    def test_missing_tensorboard_is_one_warning(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        log = RunLog(tmp_path, tensorboard=True)
        for step in (1, 2):
            log.scalars(step, {"x": 1.0})
        log.picture("a", 1, PICTURE)
        log.text("a", 1, "b")
        log.close()
        assert len(caplog.records) == 1
        assert "tensorboard" in caplog.text
        assert len(lines(tmp_path)) == 2

    def test_a_failing_writer_is_one_warning(self, tmp_path, monkeypatch, caplog):
        log = RunLog(tmp_path, tensorboard=True)
        monkeypatch.setattr(type(log._events), "add_scalar", lambda *_: 1 / 0)
        for step in (1, 2):
            log.scalars(step, {"x": 1.0})
        log.close()
        assert len(caplog.records) == 1
        assert "division" in caplog.text
        assert len(lines(tmp_path)) == 2

    def test_not_imported_unless_wanted(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        monkeypatch.setattr(RunLog, "_warn", lambda *_: pytest.fail("tensorboard was touched"))
        RunLog(tmp_path, tensorboard=False).scalars(1, {"x": 1.0})
        assert not (tmp_path / "tensorboard").exists()
