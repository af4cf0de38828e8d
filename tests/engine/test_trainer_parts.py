"""Optimizer groups, schedules, the finite guard, precision: each against a hand-made value."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fusion_det.engine.device import choose_device, choose_precision
from fusion_det.engine.finite_guard import FiniteGuard
from fusion_det.engine.optim import adamw, sgd
from fusion_det.engine.schedule import cosine, multistep
from fusion_det.engine.trainer import Trainer
from fusion_det.errors import ConfigError, FusionDetError
from fusion_det.structures import ImageBatch, Targets


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)


def groups_of(optimizer):
    return {g["name"]: (g["lr"], g["weight_decay"], len(g["params"])) for g in optimizer.param_groups}


def test_groups_split_backbone_and_decay():
    optimizer = sgd(Net(), lr=0.1, weight_decay=0.01, momentum=0.9, nesterov=False, backbone_lr_factor=0.1, norm_decay=False)
    assert groups_of(optimizer) == {
        "backbone/decay": (pytest.approx(0.01), 0.01, 1),
        "backbone/no_decay": (pytest.approx(0.01), 0.0, 3),
        "rest/decay": (0.1, 0.01, 1),
        "rest/no_decay": (0.1, 0.0, 2),
    }
    everything = adamw(Net(), lr=0.1, weight_decay=0.01, betas=[0.9, 0.99], backbone_lr_factor=1.0, norm_decay=True)
    assert groups_of(everything) == {"backbone/decay": (0.1, 0.01, 4), "rest/decay": (0.1, 0.01, 3)}
    with pytest.raises(ValueError, match="expected two numbers"):
        adamw(Net(), lr=0.1, weight_decay=0.01, betas=[0.9], backbone_lr_factor=1.0, norm_decay=True)


def rates(schedule_of, total=100, **options):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = schedule_of(optimizer, total, **options)
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found, optimizer.param_groups[0]["lr"]


def test_cosine_warms_up_and_ends_where_it_should():
    found, last = rates(cosine, warmup_fraction=0.1, warmup_factor=0.0, final_factor=0.01)
    assert found[0] == pytest.approx(0.1)
    assert found[9] == pytest.approx(1.0)
    assert found[55] == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert last == pytest.approx(0.01)
    assert found[10:] == sorted(found[10:], reverse=True)


def test_multistep_is_the_classic_staircase():
    found, _ = rates(multistep, warmup_fraction=0.05, warmup_factor=0.001, milestones=[0.6, 0.9], gamma=0.1)
    assert found[4] == pytest.approx(1.0)
    assert [found[i] for i in (59, 60, 89, 90)] == pytest.approx([1.0, 0.1, 0.1, 0.01])


def test_guard_names_the_first_bad_batch():
    guard = FiniteGuard()
    guard.watch(1, {"loss_a": torch.tensor(1.0)}, (5,))
    guard.check()
    guard.watch(2, {"loss_a": torch.tensor(1.0), "loss_b": torch.tensor(float("inf"))}, (6, 7))
    with pytest.raises(FusionDetError, match=r"step 2: not finite: loss_b=inf on images \[6, 7\]"):
        guard.check()


class FlatAtZero(nn.Module):
    """A loss of 0 whose gradient is infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.bad = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def forward(self, images: ImageBatch, targets: Targets) -> dict[str, torch.Tensor]:
        return {"loss_a": (self.fine * images.pixels.sum() + self.bad.sqrt()).sum()}


def test_infinite_gradient_stops_before_the_weights_are_touched():
    model, sizes = FlatAtZero(), torch.tensor([[2, 2]])
    images = ImageBatch(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), sizes, torch.ones(1, 2), sizes, (7,))
    none = torch.zeros(1, 0, dtype=torch.bool)
    batch = (images, Targets(torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64), none, none))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer = Trainer(
        model, optimizer, multistep(optimizer, 10, warmup_fraction=0.0, warmup_factor=1.0, milestones=[0.9], gamma=0.1), lambda *_: [batch],
        num_batches=1, epochs=1, device=torch.device("cpu"), precision="fp32", accumulate=1, clip_grad_norm=1.0, ema_decay=0.0, log_every=1,
    )  # fmt: skip
    message = r"step 1: not finite: grad_norm=inf on images \[7\], first in the gradient of bad \(1 of 2 parameters\)"
    with pytest.raises(FusionDetError, match=message):
        trainer.train_step([batch])
    assert model.fine.item() == 1.0


def test_devices_and_precisions():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="was asked for, but torch sees"):
        choose_device("cuda:99")
    assert choose_precision("fp32", torch.device("cpu")) == "fp32"
    assert choose_precision("bf16", torch.device("cpu")) == "bf16"
    assert choose_precision("auto", torch.device("cpu")) in ("fp32", "bf16")
