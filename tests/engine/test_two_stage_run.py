"""A two-stage head draws what it teaches: stopping and going on must not change what is drawn."""

from __future__ import annotations

import logging
import signal
from pathlib import Path

import pytest
import torch
from tests_engine_settings import SMALL

from fusion_det.config.cli import load_settings
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.engine.checkpoint import load_checkpoint
from fusion_det.engine.run import train
from fusion_det.engine.signals import Interrupted
from fusion_det.engine.trainer import Trainer


def settings(root: Path, folder: Path, *overrides: str):
    words = [word for word in SMALL if not word.startswith("head.")]
    words += ["head=faster_rcnn_small", "head.samples=16", "head.box_head.width=32", "roi_fusion=ion", "roi_fusion.fusion=aff"]
    words += ["trainer.epochs=2", f"data.root={root}", f"run_dir={folder}", *overrides]
    return load_settings(get_tool("train"), words, default_config_dir())


def test_stopped_within_an_epoch_and_resumed_equals_uninterrupted(coco_root, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    train(settings(coco_root, tmp_path / "whole"), [])
    assert caplog.text.count("head.rpn: anchors of 16 to 64 px; best overlap") == 1
    original = Trainer.train_step

    def stepping(self, group):
        original(self, group)
        if self.step == 3:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stepping)
        with pytest.raises(Interrupted):
            train(settings(coco_root, tmp_path / "stopped"), [])
    caplog.clear()
    train(settings(coco_root, tmp_path / "stopped", "resume=auto"), [])
    assert "head.rpn: anchors" not in caplog.text  # said once, at the start
    expected, found = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "stopped"))
    assert expected["step"] == found["step"] == 8
    assert torch.equal(expected["rng"]["torch"], found["rng"]["torch"])
    assert expected["model"].keys() == found["model"].keys()
    assert all(torch.equal(value, found["model"][key]) for key, value in expected["model"].items())
