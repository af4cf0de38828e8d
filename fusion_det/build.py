"""From a plain config to a detector: the one module that knows how the parts fit together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from fusion_det.config.instantiate import build
from fusion_det.detector import Detector
from fusion_det.errors import ConfigError


def build_detector(cfg: Mapping[str, Any], num_classes: int, *, seed: int, load_pretrained: bool = True) -> Detector:
    """backbone -> neck(levels) -> head(levels) -> detector, each with initial weights drawn from a generator of its own.

    ``cfg`` holds the nodes ``backbone``, ``neck``, ``fusion``, ``block``, ``head`` and ``late_fusion``. As each component is seeded by
    its name, two detectors with different necks start from the same backbone and head. With ``load_pretrained`` false no weight file
    is read (the weights will come from a checkpoint). What does not fit raises ``ConfigError`` before any data is touched.
    """
    backbone_cfg = dict(cfg["backbone"])
    if not load_pretrained and "pretrained" in backbone_cfg:
        backbone_cfg["pretrained"] = False
    with _component(seed, "backbone"):
        backbone = build(backbone_cfg)
    with _component(seed, "neck"):
        neck = build(cfg["neck"], backbone.levels, partial(build, cfg["fusion"]), partial(build, cfg["block"]))
    with _component(seed, "head"):
        head = build(cfg["head"], neck.levels, num_classes)
    return Detector(backbone, neck, head, build(cfg["late_fusion"]), mean=backbone.mean, std=backbone.std)


def dry_run(cfg: Mapping[str, Any]) -> str:
    """Build everything without memory or weights, so that parts that do not fit fail before data is touched; the neck's plan as text."""
    with torch.device("meta"):
        detector = build_detector(cfg, num_classes=1, seed=0, load_pretrained=False)
    plan = getattr(detector.neck, "plan", None)
    return f"neck:\n{plan.draw()}" if plan is not None else ""


@contextmanager
def _component(seed: int, name: str) -> Iterator[None]:
    """Seed torch by (seed, component name), restore its state afterwards, and turn a part's refusal into a config error."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest[:7], "big"))
        try:
            yield
        except ValueError as error:
            raise ConfigError(str(error), where=name, mend=f"change {name}= or its keys") from error
