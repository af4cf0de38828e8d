"""Adds up what the fusions decide over many batches, on the device and without waiting for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fusion_det.analysis.fusion_report import FusionReport, SiteReport, WeightSummary
from fusion_det.structures import FusionSite, ImageBatch

Probes = Sequence[Mapping[str, Tensor]]
"""One mapping per site, as the operators' ``probe()`` gives them."""


def read_probes(sites: Sequence[FusionSite], pictures: int) -> list[dict[str, Tensor]]:
    """What the last forward pass, on so many pictures, decided at each site. ``ValueError`` for an operator whose ``weights`` are not
    [B, N, h, w].

    At a site of boxes (``per_box``) B becomes the pictures and h all their boxes, one below the other; also boxes that only fill slots.
    """
    probes = [site.operator.probe() for site in sites]  # type: ignore[operator]
    for site, found in zip(sites, probes, strict=True):
        weights = found.get("weights")
        if weights is not None and (weights.ndim != 4 or weights.shape[1] != len(site.inputs)):
            shape, operator = list(weights.shape), type(site.operator).__name__
            raise ValueError(f"{operator} at {site.name}: expected probed weights [B, {len(site.inputs)}, h, w], got {shape}")
    return [
        {name: _by_picture(value, pictures) for name, value in found.items()} if site.per_box else found
        for site, found in zip(sites, probes, strict=True)
    ]


def _by_picture(value: Tensor, pictures: int) -> Tensor:
    """[B * R, N, h, w] -> [B, N, R * h, w]; what is the same for all boxes stays as it is."""
    if value.ndim != 4 or value.shape[0] == 1:
        return value
    return value.unflatten(0, (pictures, -1)).transpose(1, 2).flatten(2, 3)


class FusionTally:
    """Means over all pictures that were added. Only a few numbers per picture and site are kept, never maps."""

    def __init__(self, sites: Sequence[FusionSite]) -> None:
        self.sites = tuple(sites)
        self.pictures = 0
        self._measured: dict[tuple[int, str], list[Tensor]] = {}
        self._constant: dict[tuple[int, str], list[Tensor]] = {}

    def add(self, images: ImageBatch, probes: Probes) -> None:
        """Take in one batch; maps are reduced to a row per picture at once, weights without positions (h = w = 1) at the end."""
        self.pictures += len(images)
        masks: dict[tuple[int, int], Tensor] = {}
        for number, (site, found) in enumerate(zip(self.sites, probes, strict=True)):
            for name in ("weights", "probabilities"):
                if (value := found.get(name)) is None:
                    continue
                size = (value.shape[2], value.shape[3])
                value = value.float().expand(len(images), -1, -1, -1)
                if size == (1, 1):
                    self._constant.setdefault((number, name), []).append(value)
                else:
                    if site.per_box:
                        inside = value.new_ones(1, 1, *size)
                    else:
                        inside = masks[size] if size in masks else masks.setdefault(size, picture_mask(images, size))
                    self._measured.setdefault((number, name), []).append(measure(value, inside))

    def report(self) -> FusionReport:
        """The summaries of what was added; waits for the device once."""
        rows = {key: list(values) for key, values in self._measured.items()}
        for key, values in self._constant.items():
            rows.setdefault(key, []).append(measure(torch.cat(values), values[0].new_ones(1, 1, 1, 1)))
        sums = [torch.cat(values) for values in rows.values()]
        flat = torch.cat([torch.cat([row.mean(0), row.amax(0)]) for row in sums]).cpu() if sums else torch.empty(0)
        means_and_maxima = dict(zip(rows, flat.split([2 * row.shape[1] for row in sums]), strict=True))
        sites = [self._site(number, site, means_and_maxima) for number, site in enumerate(self.sites)]
        return FusionReport(tuple(sites), self.pictures)

    def _site(self, number: int, site: FusionSite, found: Mapping[tuple[int, str], Tensor]) -> SiteReport:
        report = SiteReport(site.name, site.level, site.stride, site.inputs, type(site.operator).__name__, per_box=site.per_box)
        if (number, "weights") not in found:
            return report
        count = len(site.inputs)
        mean, size, wins, _, entropy = _split(found[number, "weights"].chunk(2)[0], count)
        # a choice that is never the likeliest is never seen in evaluation, yet it is drawn in training
        means, maxima = found.get((number, "probabilities"), found[number, "weights"]).chunk(2)
        fair = _split(means, count)[1].mean().clamp(min=torch.finfo(size.dtype).tiny)
        return replace(report, summary=WeightSummary(mean, wins, _split(maxima, count)[3] / fair, float(entropy)))


def report_with_maps(sites: Sequence[FusionSite], probes: Probes, images: ImageBatch) -> FusionReport:
    """The report on one batch, with everything that was probed and the pictures, on the host."""
    tally = FusionTally(sites)
    tally.add(images, probes)
    report = tally.report()
    kept = [{name: value.detach().float().cpu() for name, value in found.items()} for found in probes]
    with_maps = [replace(site, probes=found) for site, found in zip(report.sites, kept, strict=True)]
    return replace(report, sites=tuple(with_maps), images=images.to("cpu", non_blocking=False))


def one_picture(probes: Probes, images: ImageBatch, row: int) -> tuple[list[dict[str, Tensor]], ImageBatch]:
    """The part of a probed batch that belongs to its picture ``row``: probes and a batch of one."""

    def pick(value: Tensor) -> Tensor:
        return value[row : row + 1] if value.ndim == 4 and value.shape[0] == len(images) else value

    fields = {name: getattr(images, name)[row : row + 1] for name in ("pixels", "sizes", "scales", "original_sizes", "image_ids")}
    return [{name: pick(value) for name, value in found.items()} for found in probes], ImageBatch(**fields)


def measure(weights: Tensor, inside: Tensor) -> Tensor:
    """Weights [B, N, h, w] and a mask [B or 1, 1, h, w] of ones and zeros -> a row per picture [B, 4N + 1], see :func:`_split`."""
    area = inside.sum((2, 3))
    size = weights.abs()
    winner = (size == size.amax(1, keepdim=True)).float()
    winner = winner / winner.sum(1, keepdim=True)
    shares = size / size.sum(1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)
    entropy = torch.special.entr(shares).sum(1, keepdim=True) / math.log(weights.shape[1])
    meant = torch.cat([weights, size, winner, entropy], dim=1)
    means = (meant * inside).sum((2, 3)) / area
    return torch.cat([means[:, :-1], (size * inside).amax((2, 3)), means[:, -1:]], dim=1)


def _split(row: Tensor, count: int) -> tuple[Tensor, ...]:
    """A row of :func:`measure`: mean weight [N], mean size [N], wins [N], largest size [N], entropy [1]."""
    return row.split([count] * 4 + [1])


def picture_mask(images: ImageBatch, size: tuple[int, int]) -> Tensor:
    """float32 [B, 1, h, w]: 1 where the cell of a map of ``size`` touches the picture, 0 in the padding."""
    spans = []
    for axis, cells in enumerate(size):
        touched = -(-images.sizes[:, axis] * cells // images.pixels.shape[2 + axis])  # rounded up
        spans.append(torch.arange(cells, device=touched.device) < touched[:, None])
    return (spans[0][:, None, :, None] & spans[1][:, None, None, :]).float()
