"""Latency of one detector relative to another's, measured in turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fusion_det.analysis.speed import NETWORK, Scene, predictor
from fusion_det.analysis.timing import Clock, Work
from fusion_det.build import build_detector
from fusion_det.engine.device import choose_precision
from fusion_det.rehearsal import Size


class PairedLatency:
    """Called with a config: the median time of its network over the baseline's, both run in turn in this process.

    One batch of ``batch_size`` made-up pictures of ``size``, random weights, pictures to candidates: late fusion is the same for both. The
    networks are as they are trained, not made fast (:func:`fusion_det.fast.prepare.make_fast`).
    What else the machine does meets both alike, so that a ratio holds where seconds do not.
    """

    def __init__(
        self,
        baseline: Mapping[str, Any],
        *,
        num_classes: int,
        size: Size,
        device: torch.device,
        batch_size: int = 1,
        rounds: int = 40,
        seconds: float = 10.0,
    ) -> None:
        self.num_classes, self.size, self.device, self.batch_size = num_classes, size, device, batch_size
        self.clock = Clock(device, warmup=3, rounds=rounds, seconds=seconds)
        self.baseline = self._work(baseline)

    def __call__(self, config: Mapping[str, Any]) -> float:
        times = self.clock.alternate({"baseline": self.baseline, "arm": self._work(config)})
        return times["arm"].median / times["baseline"].median

    def _work(self, config: Mapping[str, Any]) -> Work:
        detector = build_detector(config, self.num_classes, seed=0, load_pretrained=False).to(self.device).eval()
        if config["trainer"]["channels_last"]:
            detector.channels_last()
        precision = choose_precision(config["trainer"]["precision"], self.device)
        return predictor(detector, Scene(self.size, precision, self.num_classes), self.batch_size)[NETWORK]
