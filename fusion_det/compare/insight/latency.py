"""Latency of an arm beside the baseline's, with late fusion, without, and made fast for prediction, all in turn. Imports torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch

from fusion_det.analysis.peak_memory import MemoryMeter
from fusion_det.analysis.speed import NETWORK, WHOLE, Scene, prediction_memory, predictor
from fusion_det.analysis.timing import Clock, Work
from fusion_det.build import build_detector
from fusion_det.compare.insight.looked import reason_of
from fusion_det.data.buckets import buckets_of
from fusion_det.detector import Detector
from fusion_det.engine.device import choose_device, choose_precision, hardware_of
from fusion_det.fast.prepare import make_fast
from fusion_det.rehearsal import Size

logger = logging.getLogger(__name__)
FAST = "fast"
KINDS = (NETWORK, WHOLE, FAST)
_ROUNDS, _WARMUP = 40, 3


def measure_latency(base: Mapping[str, Any], arm: Mapping[str, Any], num_classes: int, *, seconds: float) -> dict[str, Any]:
    """Times of one made-up picture of the data set's largest shape, random weights, 1,000 made-up candidates, in about ``seconds``.

    ``{"network", "with late fusion" and "fast": {"ms", "p95_ms", "base_ms", "base_p95_ms"}, "memory": bytes on a GPU, "size", "rounds",
    "machine"}``, the last as of :func:`this_machine`. ``fast`` is the network alone after :func:`fusion_det.fast.prepare.make_fast`;
    without it ``why_not_fast`` tells why. The others are of the detectors as they are trained.
    """
    device = choose_device("auto")
    size = buckets_of(base["data"], base["data"]["image_size"])[0]
    works: dict[str, Work] = {}
    memory = None
    for name, config in (("base", base), ("arm", arm)):
        detector = _built(config, num_classes, device)
        scene = _scene(config, size, num_classes)
        if device.type == "cuda" and name == "arm":
            memory = prediction_memory(detector, scene, 1, MemoryMeter(device))
        works |= {f"{name} {kind}": work for kind, work in predictor(detector, scene, 1).items()}
    fast, why = _fast_works(base, arm, num_classes, size)
    works |= fast
    times = Clock(device, warmup=_WARMUP, rounds=_ROUNDS, seconds=seconds).alternate(works)
    found: dict[str, Any] = {
        kind: {
            "ms": 1e3 * times[f"arm {kind}"].median, "p95_ms": 1e3 * times[f"arm {kind}"].p95,
            "base_ms": 1e3 * times[f"base {kind}"].median, "base_p95_ms": 1e3 * times[f"base {kind}"].p95,
        }
        for kind in (KINDS if fast else (NETWORK, WHOLE))
    }  # fmt: skip
    rounds = times[f"arm {NETWORK}"].rounds
    return {**found, "why_not_fast": why, "memory": memory, "size": list(size), "machine": this_machine(), "rounds": rounds}


def _fast_works(base: Mapping[str, Any], arm: Mapping[str, Any], num_classes: int, size: Size) -> tuple[dict[str, Work], str]:
    """The networks of both, made fast; or nothing, and why: parts of other people may not take it."""
    device, works = choose_device("auto"), {}
    try:
        for name, config in (("base", base), ("arm", arm)):
            detector = make_fast(_built(config, num_classes, device), size)
            works[f"{name} {FAST}"] = predictor(detector, _scene(config, size, num_classes), 1)[NETWORK]
            works[f"{name} {FAST}"]()
    except Exception as error:
        logger.debug("made fast", exc_info=error)
        return {}, reason_of(error)
    return works, ""


def _built(config: Mapping[str, Any], num_classes: int, device: torch.device) -> Detector:
    detector = build_detector(config, num_classes, seed=0, load_pretrained=False).to(device).eval()
    return detector.channels_last() if config["trainer"]["channels_last"] else detector


def _scene(config: Mapping[str, Any], size: Size, num_classes: int) -> Scene:
    return Scene(size, choose_precision(config["trainer"]["precision"], choose_device("auto")), num_classes)


def this_machine() -> dict[str, Any]:
    """What a latency belongs to besides the detectors: ``device``, ``threads``, ``cores`` and ``torch`` (its version)."""
    device = choose_device("auto")
    return {
        "device": hardware_of(device), "threads": torch.get_num_threads(), "cores": os.cpu_count(), "torch": torch.__version__,
    }  # fmt: skip
