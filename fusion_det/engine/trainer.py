"""The training loop: one screen, no hooks.

What a checkpoint must hold to go on as if nothing had happened is all in :meth:`Trainer.state_dict`. The order of the data and every
sample's augmentation are pure functions of (seed, epoch, position), so a position is all that is kept of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from fusion_det.detector import Detector
from fusion_det.engine.device import autocast
from fusion_det.engine.finite_guard import FiniteGuard
from fusion_det.engine.signals import StopRequest
from fusion_det.structures import ImageBatch, Targets

Batches = Callable[[int, int], Iterable[tuple[ImageBatch, Targets]]]
Report = Callable[["Trainer", dict[str, float]], None]


class Trainer:
    """Trains ``model`` for ``epochs`` passes over ``batches(epoch, start_batch)``.

    ``report`` gets the mean losses every ``log_every`` steps, ``end_of_epoch`` is called after each epoch. ``accumulate``
    batches make one optimizer step. With ``ema_decay`` > 0, ``ema`` follows the weights with a decay that ramps up to it (timm).
    """

    def __init__(
        self,
        model: Detector,
        optimizer: torch.optim.Optimizer,
        schedule: LRScheduler,
        batches: Batches,
        *,
        num_batches: int,
        epochs: int,
        device: torch.device,
        precision: str,
        accumulate: int,
        clip_grad_norm: float | None,
        ema_decay: float,
        log_every: int,
        compile: bool = False,
    ) -> None:
        self.model, self.optimizer, self.schedule, self.batches = model, optimizer, schedule, batches
        self.num_batches, self.epochs, self.accumulate = num_batches, epochs, accumulate
        self.device, self.precision, self.clip_grad_norm, self.log_every = device, precision, clip_grad_norm, log_every
        self.ema = ModelEmaV3(model, decay=ema_decay, use_warmup=True) if ema_decay else None
        self.loss_fn: Callable[..., dict[str, Tensor]] = torch.compile(model) if compile else model
        self.guard, self.window = FiniteGuard(), Window()
        self.epoch = self.batch = self.step = 0
        self.data_seconds = 0.0  # waited for batches by this process
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * math.ceil(self.num_batches / self.accumulate)

    def fit(
        self,
        *,
        report: Report,
        end_of_epoch: Callable[[Trainer], None],
        stop: StopRequest,
        on_batch: Callable[[int], None] = lambda images: None,
    ) -> bool:
        """Run from the present position to the end; false if ``stop`` ended it early (the state is consistent either way).

        ``on_batch`` hears of the images of every optimizer step.
        """
        while self.epoch < self.epochs:
            self.model.train()
            group: list[tuple[ImageBatch, Targets]] = []
            waiting = time.perf_counter()
            for batch in self.batches(self.epoch, self.batch):
                self.data_seconds += time.perf_counter() - waiting
                group.append(batch)
                if len(group) < self.accumulate and self.batch + len(group) < self.num_batches:
                    waiting = time.perf_counter()
                    continue
                self.train_step(group)
                self.batch += len(group)
                on_batch(sum(len(images) for images, _ in group))
                group = []
                if self.step % self.log_every == 0 or self.step == self.total_steps:
                    self.guard.check(wait=True)
                    report(self, self.window.drain())
                if stop.number is not None:
                    return False
                waiting = time.perf_counter()
            self.epoch, self.batch = self.epoch + 1, 0
            self.guard.check(wait=True)
            end_of_epoch(self)
            if stop.number is not None and self.epoch < self.epochs:
                return False
        return True

    def train_step(self, group: list[tuple[ImageBatch, Targets]]) -> None:
        """One optimizer step over ``accumulate`` batches: forward, backward, clip, update, average."""
        for images, targets in group:
            images, targets = images.to(self.device), targets.to(self.device)
            with autocast(self.device, self.precision):
                losses = self.loss_fn(images, targets)
            total = torch.stack(list(losses.values())).sum()
            self.guard.watch(self.step + 1, losses, images.image_ids)
            self.guard.check()
            (total / len(group)).backward()
            self.window.add({"loss": total.detach(), **{k: v.detach() for k, v in losses.items()}})
        if self.clip_grad_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_grad_norm, foreach=True)
            self.window.add({"grad_norm": norm.detach()})
            self.guard.watch(self.step + 1, {"grad_norm": norm}, tuple(i for images, _ in group for i in images.image_ids))
            self.guard.check(culprit=self._bad_gradients)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.model, step=self.step)

    def _bad_gradients(self) -> str:
        named = [(name, p.grad) for name, p in self.model.named_parameters() if p.grad is not None]
        bad = [name for name, gradient in named if not gradient.isfinite().all()]
        return f", first in the gradient of {bad[0]} ({len(bad)} of {len(named)} parameters)" if bad else ""

    @property
    def evaluated_model(self) -> Detector:
        """The averaged weights if there are any, else the live ones."""
        return self.ema.module if self.ema is not None else self.model

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-equal continuation needs, as tensors and plain containers."""
        self.guard.check(wait=True)
        rng = {"torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rng": rng,
            "window": {"sums": self.window.sums, "counts": self.window.counts},
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.model.load_state_dict(state["model"])
        if self.ema is not None and state["ema"] is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["rng"]["torch"])
        if self.device.type == "cuda" and "cuda" in state["rng"]:
            torch.cuda.set_rng_state(state["rng"]["cuda"], self.device)
        self.window.restore(state["window"], self.device)
        self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]


class Window:
    """Means of scalars since the last report, kept on the device so that no step waits for them."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Take up the sums of an interrupted run, so that its log goes on as well."""
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.counts = dict(state["counts"])

    def add(self, values: dict[str, Tensor]) -> None:
        """Add one batch's scalars."""
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.counts[name] = self.counts.get(name, 0) + 1

    def drain(self) -> dict[str, float]:
        """Means since the last call; starts a new window."""
        totals = torch.stack(list(self.sums.values())).tolist() if self.sums else []  # one transfer
        means = {name: total / self.counts[name] for name, total in zip(self.sums, totals, strict=True)}
        self.sums, self.counts = {}, {}
        return means
