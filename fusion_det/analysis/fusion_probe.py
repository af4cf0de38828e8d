"""What the fusions of a detector decide on some pictures: one forward pass, no hooks.

detector = fusion_det.load("runs/.../best.pt")
report = fusion_probe(detector, ["a.jpg", "b.jpg"])
print(report)
report["neck/M4"].weights  # [2, 2, h, w]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from fusion_det.analysis.fusion_report import FusionReport
from fusion_det.analysis.fusion_tally import read_probes, report_with_maps
from fusion_det.data.buckets import assign
from fusion_det.detector import Detector
from fusion_det.engine.device import autocast
from fusion_det.fusion.operator import remembering
from fusion_det.inference import LoadedDetector, batch_of, to_tensor
from fusion_det.structures import ImageBatch

if TYPE_CHECKING:
    from fusion_det.inference import Picture


@torch.no_grad()
def fusion_probe(detector: Detector | LoadedDetector, images: ImageBatch | Picture | Sequence[Picture]) -> FusionReport:
    """Run ``detector`` once on ``images``, in evaluation mode, and report what every fusion decided, with maps.

    ``images``: a prepared batch, or for a loaded detector also whatever its ``predict`` takes (paths, PIL pictures, arrays). Modes
    and the switches of the operators are left as they were found. A loaded detector runs in its own precision, a bare one in
    the caller's.
    """
    model, context = _model_of(detector)
    batch = images if isinstance(images, ImageBatch) else _prepare(detector, images)
    with remembering(model), evaluating(model), context:
        on_device = batch.to(model.mean.device)
        sites = model.fusion_sites()
        features = model.features(on_device)
        if any(site.per_box for site in sites):
            model.head.predict(features, on_device.sizes)  # type: ignore[operator]
        return report_with_maps(sites, read_probes(sites, len(on_device)), on_device)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module has its own mode again, also where they differed."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _model_of(detector: Detector | LoadedDetector) -> tuple[Detector, AbstractContextManager[Any]]:
    if isinstance(detector, LoadedDetector):
        return detector.model, autocast(detector.device, detector.precision)
    return detector, nullcontext()


def _prepare(detector: Detector | LoadedDetector, images: Any) -> ImageBatch:
    """Pictures as one batch: of the bucket that all of them fall into, or else of the square one, which holds every picture."""
    if not isinstance(detector, LoadedDetector):
        raise TypeError(f"expected an ImageBatch for a bare detector, got {type(images).__name__}; a loaded detector takes picture files")
    pictures = [to_tensor(picture) for picture in (images if isinstance(images, (list, tuple)) else [images])]
    if not pictures:
        raise ValueError("expected at least one picture, got none")
    buckets = detector.buckets
    chosen = set(assign(np.array([tuple(picture.shape[-2:]) for picture in pictures]), buckets).tolist())
    return batch_of(pictures, buckets[chosen.pop()] if len(chosen) == 1 else max(buckets))
