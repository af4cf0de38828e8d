"""``fast`` from a checkpoint on: off unless asked for, and the same boxes with it."""

from __future__ import annotations

import pytest
import torch
from tiny_checkpoint import tiny_state
from torch import nn

from fusion_det.analysis.made_up import random_batch
from fusion_det.config.schema import EvaluateConfig, PredictConfig
from fusion_det.engine.checkpoint import save_checkpoint
from fusion_det.ensemble import load_ensemble
from fusion_det.inference import LoadedDetector, load


def norms_of_backbone(detector: LoadedDetector) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in detector.model.backbone.modules())


@pytest.fixture
def checkpoint(coco_root, tmp_path):
    save_checkpoint(tmp_path / "last.pt", tiny_state(coco_root, 0), keep=1)
    return tmp_path / "last.pt"


def test_loading_fast_finds_the_same(checkpoint):
    exact, fast = (load(checkpoint, device="cpu", fast=fast) for fast in (False, True))
    assert norms_of_backbone(exact) > 0
    assert norms_of_backbone(fast) == 0
    images, _ = random_batch(2, (64, 64), 3, 3)
    before, after = exact.detect(images), fast.detect(images)
    assert before.valid.sum() == after.valid.sum() > 0
    torch.testing.assert_close(after.scores, before.scores, rtol=1e-4, atol=1e-5)


def test_it_is_off_unless_asked_for(checkpoint):
    assert norms_of_backbone(load(checkpoint, device="cpu")) > 0
    assert norms_of_backbone(load_ensemble(checkpoint, device="cpu").detectors[0]) > 0
    assert norms_of_backbone(load_ensemble(checkpoint, device="cpu", fast=True).detectors[0]) == 0
    assert PredictConfig.model_fields["fast"].default is True
    assert EvaluateConfig.model_fields["fast"].default is False
