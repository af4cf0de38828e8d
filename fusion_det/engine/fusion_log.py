"""What the fusions of a detector decide over each evaluation of a run: numbers, pictures, and a warning about inputs that do nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from fusion_det.analysis.fusion_report import DEAD_REACH, FusionReport
from fusion_det.analysis.fusion_tally import FusionTally, one_picture, read_probes, report_with_maps
from fusion_det.analysis.gate_overlays import gate_overlays
from fusion_det.analysis.weight_bars import weight_bars
from fusion_det.data.coco_index import CocoIndex
from fusion_det.detector import Detector
from fusion_det.engine.pictures import spread
from fusion_det.fusion.operator import remembering
from fusion_det.structures import ImageBatch

logger = logging.getLogger(__name__)


class FusionLog:
    """Watches evaluations. Means are over all pictures; maps are kept of those that are drawn anyhow (``pictures`` of ``index``)."""

    def __init__(self, index: CocoIndex, *, pictures: int) -> None:
        self.drawn = {index.image_ids[image]: number for number, image in enumerate(spread(index, pictures))}
        self.report = FusionReport((), 0)
        self._maps: dict[int, FusionReport] = {}
        self._warned: set[tuple[str, str]] = set()

    @contextmanager
    def watching(self, model: Detector) -> Iterator[Callable[[ImageBatch], None]]:
        """Around one evaluation: what it gives is to be called with every batch, on its device, right after its forward pass."""
        sites = model.fusion_sites()
        tally, self._maps = FusionTally(sites), {}

        def watch(images: ImageBatch) -> None:
            probes = read_probes(sites, len(images))
            tally.add(images, probes)
            for row, image_id in enumerate(images.image_ids):
                if image_id in self.drawn and any("weights" in found for found in probes):
                    self._maps[self.drawn[image_id]] = report_with_maps(sites, *one_picture(probes, images, row))

        with remembering(model):
            yield watch
        self.report = tally.report()
        self._warn()

    def scalars(self) -> dict[str, float]:
        """Mean weights and entropies of the last evaluation, ``fusion/<part>/<node>/<input>`` and ``.../entropy``."""
        return self.report.scalars()

    def pictures(self) -> Iterator[tuple[str, Tensor]]:
        """Weight bars and gate overlays of the last evaluation: (tag, uint8 [3, H, W]); ``fusion/gates_N`` belongs to ``val/sample_N``."""
        if self.drawn and (bars := weight_bars(self.report)) is not None:
            yield "fusion/weights", bars
        for number, report in sorted(self._maps.items()):
            if (overlays := gate_overlays(report)) is not None:
                yield f"fusion/gates_{number}", overlays

    def _warn(self) -> None:
        """One line for every dead input, the first time that it is seen."""
        for site, name in self.report.dead:
            if (site.name, name) not in self._warned:
                self._warned.add((site.name, name))
                logger.warning(
                    "dead input: %s (%s, stride %d, %s) does not use %s: its weight is under %g of the node's average at every position of "
                    "all %d validation pictures; try another fusion= or a neck without this edge, or a lower learning rate if it died soon",
                    site.name, site.level, site.stride, site.operator, name, DEAD_REACH, self.report.pictures,
                )  # fmt: skip
