"""Parts put together: seeds by name, refusals before data, the configs as they are."""

from __future__ import annotations

import itertools

import pytest
import torch

from fusion_det.build import build_detector, dry_run
from fusion_det.config.cli import load_settings
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.detector import Detector
from fusion_det.errors import ConfigError
from fusion_det.structures import ImageBatch, Targets


def plain(*words):
    return load_settings(get_tool("train"), list(words), default_config_dir()).plain()


def batch(size=96, count=2):
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    sizes = torch.tensor([[size, size]] * count)
    images = ImageBatch(pixels, sizes, torch.ones(count, 2), sizes, tuple(range(count)))
    boxes = torch.tensor([[[10.0, 10.0, 50.0, 60.0], [0.0, 0.0, 0.0, 0.0]]] * count)
    valid = torch.tensor([[True, False]] * count)
    return images, Targets(boxes, torch.zeros(count, 2, dtype=torch.int64), valid, torch.zeros_like(valid))


@pytest.mark.parametrize(("neck", "fusion"), list(itertools.product(["fpn", "none", "single"], ["add", "concat"])))
def test_every_neck_and_operator_trains_and_predicts(neck, fusion):
    model = build_detector(plain(f"neck={neck}", f"fusion={fusion}", "neck.channels=16"), 4, seed=0)
    images, targets = batch()
    losses = model.losses(images, targets)
    sum(losses.values()).backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if not name.startswith("neck.entries"))
    found = model.eval().predict(images)
    assert found.boxes.shape[0] == 2
    assert found.boxes.shape[2] == 4


def test_losses_of_sampling_operators_reach_the_trainer():
    words = ["fusion=hard", "fusion.estimator=reinforce", "neck.channels=16"]
    model = build_detector(plain(*words), 4, seed=0).train()
    losses = model.losses(*batch())
    assert {"loss_cls", "loss_policy", "loss_baseline"} <= losses.keys()
    sum(losses.values()).backward()
    silent = [name for name, p in model.named_parameters() if "operators" in name and (p.grad is None or not p.grad.any())]
    assert not silent
    assert "loss_policy" not in build_detector(plain(), 4, seed=0).losses(*batch())


def test_arms_share_backbone_and_head_but_not_the_neck():
    models = [build_detector(plain(f"neck={neck}"), 4, seed=3) for neck in ("fpn", "none")]
    states = [model.state_dict() for model in models]
    shared = [key for key in states[0] if key.startswith(("backbone.", "head."))]
    assert all(torch.equal(states[0][key], states[1][key]) for key in shared)
    other = build_detector(plain("neck=fpn"), 4, seed=4).state_dict()
    assert not torch.equal(states[0]["backbone.stem.0.weight"], other["backbone.stem.0.weight"])


def test_building_does_not_move_the_global_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build_detector(plain(), 4, seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_dry_run_draws_the_plan_and_needs_no_weights(monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("a dry run reads no file"))
    assert "M4 /16 <- fuse(C4, up C5)" in dry_run(plain("backbone=efficientnet_lite0")).text


def test_parts_that_do_not_fit_are_config_errors_naming_the_part():
    with pytest.raises(ConfigError, match="stride 4 is not among the backbone's strides") as refused:
        dry_run(plain("neck=single", "neck.topology.stride=4"))
    assert refused.value.where == "neck"
    with pytest.raises(ConfigError, match=r"backbone: backbone tiny: widths .* differ in length"):
        dry_run(plain("backbone.depths=[1,1]"))


def test_channels_last_changes_layout_not_results():
    torch.manual_seed(0)
    model = build_detector(plain(), 4, seed=0).eval()
    images, _ = batch()
    expected = model.predict_raw(images)
    found = model.channels_last().predict_raw(images)
    assert torch.allclose(expected.scores, found.scores, atol=1e-5)
    assert model.backbone.stem[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_detections_go_back_to_original_pixels():
    from fusion_det.structures import Detections

    images = ImageBatch(
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        torch.tensor([[48, 64]]),
        torch.tensor([[0.5, 0.25]]),
        torch.tensor([[190, 120]]),
        (7,),
    )
    one = torch.ones(1, 1)
    found = Detections(torch.tensor([[[10.0, 10.0, 100.0, 40.0]]]), one, one.long(), one.long(), one.long(), one.bool()).to_original(images)
    assert found.boxes.tolist() == [[[20.0, 40.0, 120.0, 160.0]]]


def test_detector_is_a_plain_module_of_four_parts():
    model = build_detector(plain(), 4, seed=0)
    assert isinstance(model, Detector)
    assert [name for name, _ in model.named_children()] == ["backbone", "neck", "head"]
