"""How long a detector takes to predict and to learn, and how much memory it needs for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fusion_det.analysis.made_up import random_batch, random_candidates
from fusion_det.analysis.peak_memory import MemoryMeter
from fusion_det.analysis.timing import Clock, Times, Work
from fusion_det.config.instantiate import build
from fusion_det.detector import Detector
from fusion_det.engine.device import autocast
from fusion_det.rehearsal import Size

NETWORK, WHOLE = "network", "with late fusion"


@dataclass(frozen=True)
class Scene:
    """What a detector is fed while it is measured; all of it is made up."""

    size: Size
    """Height and width of the pictures."""
    precision: str
    """``fp32`` or ``bf16``."""
    num_classes: int
    objects: int = 7
    """Objects in each picture."""
    candidates: int | None = 1000
    """Candidates of each picture that late fusion gets, around as many places as there are objects; ``None``: what the head gives."""


@dataclass(frozen=True)
class Training:
    """Steps of a batch: forward, losses, backward, clipping, optimizer; no loading of data, no averaged weights."""

    batch_size: int
    step: Times
    memory: int | None
    """Bytes at the peak of the first step."""

    @property
    def images_per_second(self) -> float:
        """At the median step."""
        return self.batch_size / self.step.median


def predictor(detector: Detector, scene: Scene, batch_size: int) -> dict[str, Work]:
    """Two calls: the network alone (pictures to candidates), and with late fusion (pictures to final detections)."""
    device = detector.mean.device
    images, _ = random_batch(batch_size, scene.size, scene.objects, scene.num_classes)
    images, made = images.to(device), None
    if scene.candidates is not None:
        levels = len(detector.head.levels)  # type: ignore[arg-type]
        made = random_candidates(
            batch_size, scene.candidates, scene.size, objects=scene.objects, num_classes=scene.num_classes, levels=levels
        ).to(device)

    @torch.inference_mode()
    def network() -> Any:
        with autocast(device, scene.precision):
            return detector.predict_raw(images)

    @torch.inference_mode()
    def whole() -> Any:
        found = network()
        with autocast(device, scene.precision):
            return detector.late_fusion([found if made is None else made]).to_original(images)

    return {NETWORK: network, WHOLE: whole}


def prediction_times(detector: Detector, scene: Scene, batch_size: int, clock: Clock) -> dict[str, Times]:
    """Seconds per batch of ``batch_size`` pictures, by :data:`NETWORK` and :data:`WHOLE`, in turn."""
    return clock.alternate(predictor(detector.eval(), scene, batch_size))


def prediction_memory(detector: Detector, scene: Scene, batch_size: int, meter: MemoryMeter) -> int | None:
    """Bytes at the peak of one prediction with late fusion."""
    return meter.peak_of(predictor(detector.eval(), scene, batch_size)[WHOLE])


def training_step(detector: Detector, scene: Scene, batch_size: int, optimizer: Mapping[str, Any], clip: float | None) -> Work:
    """One step on the same batch at every call. The weights change."""
    device = detector.mean.device
    images, targets = (part.to(device) for part in random_batch(batch_size, scene.size, scene.objects, scene.num_classes))
    detector.train()
    rule: torch.optim.Optimizer = build(optimizer, detector)
    parameters = [p for group in rule.param_groups for p in group["params"]]

    def step() -> None:
        with autocast(device, scene.precision):
            losses = detector(images, targets)
        torch.stack(list(losses.values())).sum().backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        rule.step()
        rule.zero_grad()

    return step


def training_speed(detector: Detector, scene: Scene, batch_size: int, cfg: Mapping[str, Any], clock: Clock, meter: MemoryMeter) -> Training:
    """Times of training steps with the optimizer and clipping of ``cfg``. The weights change."""
    step = training_step(detector, scene, batch_size, cfg["optimizer"], cfg["trainer"]["clip_grad_norm"])
    memory = meter.peak_of(step)
    return Training(batch_size, clock.alternate({"step": step})["step"], memory)
