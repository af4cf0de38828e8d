"""Replace pyramid levels of a trained detector and measure what is left: reliance, not need.

detector = fusion_det.load("runs/.../best.pt")
reliance = level_ablation(detector, batches, index.ground_truth())
print(reliance.table())
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fusion_det.analysis.fusion_probe import evaluating
from fusion_det.analysis.level_reliance import NUMBERS, Action, LevelReliance, Replacement, Variant
from fusion_det.detector import Detector
from fusion_det.engine.device import autocast
from fusion_det.evaluation.array_metrics import match
from fusion_det.evaluation.predictions import DetectionArrays, to_coco_results
from fusion_det.inference import LoadedDetector
from fusion_det.structures import Detections, ImageBatch, Targets

Part = Literal["neck", "backbone"]


def level_ablation(
    detector: LoadedDetector,
    batches: Iterable[tuple[ImageBatch, Targets]],
    ground_truth: dict[str, Any],
    *,
    part: Part = "neck",
    replacements: Sequence[Replacement] = ("zero", "mean"),
    max_detections: int = 100,
) -> LevelReliance:
    """COCO numbers of ``detector`` with each level dropped, and with only one level kept.

    ``part``: replace what the neck gives to the head, or what the backbone gives to the neck, which shows what the fusion leans on.
    ``replacements``: ``zero``, or ``mean``, the mean of each channel over all positions of all pictures (padding left out), the same at
    every position. Zeros are far from what the next part was trained on where maps are not centred; the mean is the milder one.

    ``batches`` are gone through twice (once without ``mean``) and must give the same pictures each time; ``ground_truth`` is the COCO dict
    of these pictures. The parts before the replaced maps run once per batch. A level whose maps are constant still fires; suppression
    is as always. Raises ``ValueError`` for batches that can be gone through only once.
    """
    found = ablated_detections(detector, batches, part=part, replacements=replacements)
    numbers = {variant: _numbers(ground_truth, detections, max_detections) for variant, detections in found.items()}
    return LevelReliance(part, _levels_of(detector, part), numbers[None], {variant: numbers[variant] for variant in found if variant})


@torch.inference_mode()
def ablated_detections(
    detector: LoadedDetector,
    batches: Iterable[tuple[ImageBatch, Targets]],
    *,
    part: Part = "neck",
    replacements: Sequence[Replacement] = ("zero", "mean"),
) -> dict[Variant | None, DetectionArrays]:
    """What :func:`level_ablation` measures, for other measures than its own: the detections of each variant, ``None`` for no change."""
    if "mean" in replacements and iter(batches) is batches:
        raise ValueError("batches: expected something to go through twice, such as a list or a loader, got an iterator")
    model, levels = detector.model, _levels_of(detector, part)
    actions: tuple[Action, ...] = ("drop", "keep") if len(levels) > 2 else ("drop",)  # of two levels, dropping one keeps the other
    variants = [Variant(action, level, r) for r in replacements for action in actions for level in levels]
    found: dict[Variant | None, list[DetectionArrays]] = {variant: [] for variant in (None, *variants)}
    with evaluating(model), _maps_of(model, part) as maps_of:
        means = _channel_means(detector, batches, maps_of) if "mean" in replacements else None
        for images, _ in batches:
            on_device = images.to(detector.device)
            with autocast(detector.device, detector.precision):
                maps = maps_of(on_device)
                for variant, columns in found.items():
                    detections = _predict(model, part, _replaced(maps, levels, variant, means), on_device)
                    results = to_coco_results(detections, images.image_ids, detector.category_ids, detector.level_names)
                    columns.append(DetectionArrays.from_results(results))
    return {variant: _joined(columns) for variant, columns in found.items()}


def _levels_of(detector: LoadedDetector, part: Part) -> tuple[str, ...]:
    model = detector.model
    return tuple(level.name for level in (model.head if part == "neck" else model.backbone).levels)  # type: ignore[union-attr]


@contextmanager
def _maps_of(model: Detector, part: Part) -> Iterator[Callable[[ImageBatch], list[Tensor]]]:
    """A function from pictures to the maps of ``part``, [B, C, H_i, W_i], fine to coarse."""
    seen: list[list[Tensor]] = []

    def remember(module: nn.Module, args: Any, maps: Sequence[Tensor]) -> None:
        seen[:] = [list(maps)]

    handle = (model.neck if part == "neck" else model.backbone).register_forward_hook(remember)

    def run(images: ImageBatch) -> list[Tensor]:
        model.features(images)
        return seen[0]

    try:
        yield run
    finally:
        handle.remove()


def _predict(model: Detector, part: Part, maps: list[Tensor], images: ImageBatch) -> Detections:
    features = maps if part == "neck" else model.neck(maps)
    return model.late_fusion([model.head.predict(features, images.sizes)]).to_original(images)  # type: ignore[operator]


def _replaced(maps: list[Tensor], levels: Sequence[str], variant: Variant | None, means: list[Tensor] | None) -> list[Tensor]:
    if variant is None:
        return maps
    result = []
    for i, (level, map_) in enumerate(zip(levels, maps, strict=True)):
        if (level == variant.level) == (variant.action == "keep"):
            result.append(map_)
        elif variant.replacement == "zero" or means is None:
            result.append(torch.zeros_like(map_))
        else:
            result.append(torch.zeros_like(map_) + means[i].to(map_.dtype)[None, :, None, None])
    return result


def _channel_means(
    detector: LoadedDetector, batches: Iterable[tuple[ImageBatch, Targets]], maps_of: Callable[[ImageBatch], list[Tensor]]
) -> list[Tensor]:
    """float32 [C] for each level: the mean over the positions that lie, at least in part, inside a picture."""
    sums: list[Tensor] = []
    counts: list[float] = []
    for images, _ in batches:
        on_device = images.to(detector.device)
        with autocast(detector.device, detector.precision):
            maps = maps_of(on_device)
        sums = sums or [torch.zeros(map_.shape[1], dtype=torch.float32, device=map_.device) for map_ in maps]
        counts = counts or [0.0] * len(maps)
        for i, map_ in enumerate(maps):
            inside = _inside(on_device, map_)
            sums[i] += (map_.float() * inside).sum(dim=(0, 2, 3))
            counts[i] += float(inside.sum())
    return [total / max(count, 1.0) for total, count in zip(sums, counts, strict=True)]


def _inside(images: ImageBatch, map_: Tensor) -> Tensor:
    """float32 [B, 1, h, w]: 1 at positions that hold some of the picture."""
    starts = [torch.arange(n, device=map_.device) * (full / n) for n, full in zip(map_.shape[-2:], images.pixels.shape[-2:], strict=True)]
    rows, columns = starts[0][None], starts[1][None]
    inside = (rows < images.sizes[:, :1])[:, :, None] & (columns < images.sizes[:, 1:])[:, None, :]
    return inside[:, None].float()


def _joined(columns: list[DetectionArrays]) -> DetectionArrays:
    names = ("image_ids", "category_ids", "boxes", "scores")
    return DetectionArrays(**{name: np.concatenate([getattr(part, name) for part in columns]) for name in names})


def _numbers(ground_truth: dict[str, Any], detections: DetectionArrays, max_detections: int) -> dict[str, Any]:
    summary = match(ground_truth, detections, max_detections=max_detections).summary()
    return {name: summary[name] for name in NUMBERS}
