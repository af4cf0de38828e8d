"""What the fusions of an arm's detector decide on some validation pictures, also by the size of the objects. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fusion_det.analysis.fusion_probe import evaluating
from fusion_det.analysis.fusion_report import SiteReport
from fusion_det.analysis.fusion_tally import FusionTally, read_probes
from fusion_det.compare.insight.detectors import batches_of, chosen_pictures
from fusion_det.data.coco_index import CocoIndex
from fusion_det.engine.device import autocast
from fusion_det.fusion.operator import remembering
from fusion_det.inference import LoadedDetector
from fusion_det.structures import FusionSite, ImageBatch, Targets

MOST_PICTURES = 64
SIZES, _LIMITS = ("small", "medium", "large"), (32.0**2, 96.0**2)
"""By the area of the box in pixels of the stored picture."""


@torch.no_grad()
def measure_decisions(detector: LoadedDetector, index: CocoIndex) -> dict[str, Any]:
    """``{"sites": [...], "pictures": n}``: means of weights, wins and entropy by node, and by size of the objects."""
    model, device = detector.model, detector.device
    sites = model.fusion_sites()
    tally, sums = FusionTally(sites), _SizeSums(sites)
    with remembering(model), evaluating(model), autocast(device, detector.precision):
        for images, targets in batches_of(index, detector, chosen_pictures(index, MOST_PICTURES)):
            on_device = images.to(device)
            features = model.features(on_device)
            if any(site.per_box for site in sites):
                model.head.predict(features, on_device.sizes)  # type: ignore[operator]
            probes = read_probes(sites, len(on_device))
            tally.add(on_device, probes)
            sums.add(images, targets, probes)
    report = tally.report()
    rows = [_row(site, sums.means(number)) for number, site in enumerate(report)]
    return {"sites": rows, "pictures": report.pictures}


def _row(site: SiteReport, sizes: dict[str, list[float]] | None) -> dict[str, Any]:
    row: dict[str, Any] = {"name": site.name, "level": site.level, "operator": site.operator, "inputs": list(site.inputs)}
    if (summary := site.summary) is None:
        return {**row, "weights": None}
    contested = summary.contested
    return {
        **row, "weights": summary.mean.tolist(), "shares": summary.shares.tolist(), "wins": summary.wins.tolist() if contested else None,
        "entropy": summary.entropy, "dead": list(site.dead), "sizes": sizes,
    }  # fmt: skip


class _SizeSums:
    """Mean weights over the cells that an object touches, over the objects of each size; of weights that depend on the position."""

    def __init__(self, sites: Sequence[FusionSite]) -> None:
        self.sites = sites
        self.sums = [torch.zeros(3, len(site.inputs)) for site in sites]
        self.counts = torch.zeros(len(sites), 3)

    def add(self, images: ImageBatch, targets: Targets, probes: Sequence[Mapping[str, Tensor]]) -> None:
        """One batch: ``images`` and ``targets`` on the host."""
        shape = images.pixels.shape[-2:]
        for number, (site, found) in enumerate(zip(self.sites, probes, strict=True)):
            weights = found.get("weights")
            if weights is None or site.per_box or weights.shape[-2:] == (1, 1):
                continue
            weights = weights.float().cpu().expand(len(images), -1, -1, -1)
            for row in range(len(images)):
                for box in targets.boxes[row][targets.valid[row]]:
                    size = _size(box, images.scales[row])
                    self.sums[number][size] += _under(weights[row], box, shape)
                    self.counts[number, size] += 1

    def means(self, number: int) -> dict[str, list[float]] | None:
        """By size, of those that occurred; ``None`` where the weights have no positions."""
        counts = self.counts[number].tolist()
        rows = self.sums[number].tolist()
        found = {name: [value / n for value in row] for name, row, n in zip(SIZES, rows, counts, strict=True) if n}
        return found or None


def _size(box: Tensor, scale: Tensor) -> int:
    width, height = ((box[2:] - box[:2]) / scale).tolist()
    return sum(width * height >= limit for limit in _LIMITS)


def _under(weights: Tensor, box: Tensor, shape: tuple[int, ...]) -> Tensor:
    """[N]: mean of ``weights`` [N, h, w] over the cells that ``box`` (xyxy in a picture of ``shape``) touches, one at least."""
    ends = []
    for axis in (0, 1):  # rows by y, columns by x
        cells = weights.shape[1 + axis]
        low, high = (float(box[i]) * cells / shape[axis] for i in (1 - axis, 3 - axis))
        first = min(int(low), cells - 1)
        ends.append((first, max(first + 1, min(cells, -int(-high // 1)))))
    (top, bottom), (left, right) = ends
    return weights[:, top:bottom, left:right].mean(dim=(1, 2))
