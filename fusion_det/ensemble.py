"""Several views of a picture (sizes, mirrored or not) by one or several detectors, brought together by late fusion."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from fusion_det.config.instantiate import TARGET, build
from fusion_det.config.values import check_node
from fusion_det.data.buckets import buckets_of, resized
from fusion_det.engine.device import autocast
from fusion_det.errors import CheckpointError, ConfigError, raise_all
from fusion_det.inference import LoadedDetector, PicturePredictor, load
from fusion_det.late_fusion.sources import mirrored, mirrored_back, moved, renumbered
from fusion_det.structures import Detections, ImageBatch, RawDetections

if TYPE_CHECKING:
    from fusion_det.config.schema import EvaluateConfig, PredictConfig

SIZE_MULTIPLE = 32
"""Sizes of pictures are multiples of this, as in training."""


class View(NamedTuple):
    """One source: a detector and how it sees the pictures."""

    detector: LoadedDetector
    image_size: int
    """Long side of the pictures."""
    mirrored: bool
    weight: float

    @property
    def name(self) -> str:
        """For people: ``best.pt at 320 px, mirrored``."""
        return f"{self.detector.where} at {self.image_size} px{', mirrored' if self.mirrored else ''}"


class Ensemble(PicturePredictor):
    """Predicts like one detector. Each of ``detectors`` sees pictures of its size times each of ``scales``, with ``flip`` also mirrored.

    All views are sources of one late fusion (``late_fusion``, or that of the first detector), in the network frame of the first view;
    pictures are resized from the original for each size. ``weights``: one per detector. Detectors must have the same classes.
    With one detector, one scale and no flip the result is that detector's own, to the bit.
    """

    def __init__(
        self,
        detectors: Sequence[LoadedDetector],
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        late_fusion: Mapping[str, Any] | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        if weights is not None and len(weights) != len(detectors):
            fault = f"{len(weights)} weights for {len(detectors)} checkpoints"
            raise ConfigError(fault, where="weights", mend="give one number per checkpoint, or null")
        first = detectors[0]
        for other in detectors[1:]:
            _check_same_classes(first, other)
        self.detectors = tuple(detectors)
        self.class_names, self.category_ids, self.config = first.class_names, first.category_ids, first.config
        self.level_names = tuple(dict.fromkeys(name for detector in detectors for name in detector.level_names))
        self.views = tuple(
            View(detector, size, turned, weight)
            for detector, weight in zip(detectors, weights or [1.0] * len(detectors), strict=True)
            for size in _sizes(detector.image_size, scales)
            for turned in ((False, True) if flip else (False,))
        )
        self.image_sizes = tuple(dict.fromkeys(view.image_size for view in self.views))
        self.buckets = resized(buckets_of(first.config.get("data", {}), first.image_size), self.image_sizes[0])
        self.source_names = tuple(view.name for view in self.views)
        self.late_fusion_node = merged_late_fusion(first.config["late_fusion"], late_fusion)
        self.late_fusion: Any = build(self.late_fusion_node) if late_fusion else first.model.late_fusion
        self._weights = [view.weight for view in self.views] if weights is not None else None
        if self._weights is not None and "weights" not in inspect.signature(type(self.late_fusion).__call__).parameters:
            fault = f"{type(self.late_fusion).__name__} takes no weights"
            raise ConfigError(fault, where="weights", mend="choose another late_fusion=, or leave weights out")

    @torch.inference_mode()
    def detect(self, *batches: ImageBatch) -> Detections:
        """Final detections, original frame, on the host; ``batches``: the same pictures at each of ``image_sizes``."""
        device = self.detectors[0].device
        by_size = {size: batch.to(device) for size, batch in zip(self.image_sizes, batches, strict=True)}
        frame = by_size[self.image_sizes[0]]
        sources = [self._look(view, by_size[view.image_size], frame) for view in self.views]
        fused = self.late_fusion(sources) if self._weights is None else self.late_fusion(sources, self._weights)
        return fused.to_original(frame).to("cpu")

    def _look(self, view: View, images: ImageBatch, frame: ImageBatch) -> RawDetections:
        """What one view gives, in the network frame of ``frame`` and with our numbers of levels."""
        detector = view.detector
        with autocast(detector.device, detector.precision):
            found = detector.model.predict_raw(mirrored(images) if view.mirrored else images)
        found = mirrored_back(found, images) if view.mirrored else found
        levels = torch.tensor([self.level_names.index(name) for name in detector.level_names], device=found.levels.device)
        return renumbered(moved(found, images, frame), levels)


def load_ensemble(
    paths: str | Path | Sequence[str | Path],
    *,
    device: str = "auto",
    use_ema: bool = True,
    fast: bool = False,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    late_fusion: Mapping[str, Any] | None = None,
    weights: Sequence[float] | None = None,
) -> Ensemble:
    """The detectors of one or several checkpoints as one; see :class:`Ensemble` and :func:`fusion_det.inference.load`."""
    names = [paths] if isinstance(paths, str | Path) else list(paths)
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{repeated[0]} is named twice", where="checkpoint", mend="name each checkpoint once, and weigh it with weights=")
    detectors = [load(name, device=device, use_ema=use_ema, fast=fast) for name in names]
    return Ensemble(detectors, scales=scales, flip=flip, late_fusion=late_fusion, weights=weights)


def chosen_ensemble(settings: EvaluateConfig | PredictConfig) -> Ensemble:
    """The checkpoints of ``settings``, seen and brought together as they say; ``settings`` must name one."""
    assert settings.checkpoint is not None
    return load_ensemble(
        settings.checkpoint,
        device=settings.device,
        use_ema=settings.use_ema,
        fast=settings.fast,
        scales=settings.tta.scales,
        flip=settings.tta.flip,
        late_fusion=settings.late_fusion,
        weights=settings.weights,
    )


def merged_late_fusion(own: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The node ``given``; without a target it changes keys of the checkpoint's ``own``. Raises ``ConfigError`` for keys that do not fit."""
    node = dict(given or own)
    if given and TARGET not in given:
        node = {**own, **given}
        raise_all(check_node(node, "late_fusion"))
    return node


def _sizes(image_size: int, scales: Sequence[float]) -> list[int]:
    sizes = [max(1, round(image_size * scale / SIZE_MULTIPLE)) * SIZE_MULTIPLE if scale != 1 else image_size for scale in scales]
    if len(set(sizes)) < len(sizes):
        fault = f"scales {list(scales)} of {image_size} px give the sizes {sizes}, some of them twice"
        raise ConfigError(fault, where="tta.scales", mend=f"sizes are multiples of {SIZE_MULTIPLE}; choose scales further apart")
    return sizes


def _check_same_classes(first: LoadedDetector, other: LoadedDetector) -> None:
    ours, theirs = (list(zip(d.category_ids, d.class_names, strict=True)) for d in (first, other))
    if ours == theirs:
        return
    raise CheckpointError(
        f"knows other classes than {first.where}: only there {[c for c in ours if c not in theirs][:5]}, "
        f"only here {[c for c in theirs if c not in ours][:5]}",
        where=other.where,
        mend="bring together checkpoints of the same category ids and names",
    )
