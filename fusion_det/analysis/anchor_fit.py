"""How well the shapes of a head's anchors suit the objects of a data set."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fusion_det.data.buckets import Shape, fitted_size
from fusion_det.data.coco_index import CocoIndex
from fusion_det.heads.anchors import AnchorGrid

logger = logging.getLogger(__name__)

# So many pairs of an object and a shape are compared at a time, which bounds the memory to some 200 MB.
PAIRS = 2**23
# The usual limit of background: an object that overlaps every anchor by less teaches only those that are its best.
POOR_OVERLAP = 0.3
# A share of such objects above which a run warns.
POOR_SHARE = 0.05


class AnchorFit(NamedTuple):
    """Best overlap of each object with any anchor, both around one centre: what no place of the anchor can surpass."""

    overlaps: Tensor
    """float32 [M], in the order of ``objects``."""
    objects: Tensor
    """float32 [M, 2]: width and height in pixels of the network frame."""
    shapes: Tensor
    """float32 [S, 2]: the different widths and heights of the anchors."""

    @property
    def poor(self) -> Tensor:
        """bool [M]: overlaps no anchor by ``POOR_OVERLAP``."""
        return self.overlaps < POOR_OVERLAP


def log_anchor_fit(head: nn.Module, index: CocoIndex, buckets: tuple[Shape, ...], bucket_of_image: np.ndarray) -> None:
    """Say of each set of anchors in ``head`` how it suits the objects of ``index``, and warn where many objects have none.

    A usual cause of poor results of anchor-based heads on new data: nothing fails, but an object that no anchor resembles teaches at most
    the few that overlap it best, and for its class and place counts as background everywhere else.
    """
    objects = object_sizes(index, buckets, bucket_of_image)
    if not len(objects):
        return
    for name, grid in anchor_grids(head):
        fit = anchor_fit(grid, objects, buckets[0])
        sides = fit.shapes.prod(dim=1).sqrt()
        logger.info(
            "%s: anchors of %.0f to %.0f px; best overlap of an object's shape with one of them: median %.2f, under 0.5 for %.1f %% of %d",
            name, sides.min(), sides.max(), fit.overlaps.median(), 100 * (fit.overlaps < 0.5).float().mean(), len(objects),
        )  # fmt: skip
        share = fit.poor.float().mean().item()
        if share > POOR_SHARE:
            width, height = objects[fit.overlaps.argmin()].tolist()
            logger.warning(
                "%s: %.0f %% of the training objects overlap no anchor by %.1f, such as one of %.0f x %.0f px, and will be learned poorly; "
                "give the head sizes and aspect ratios for them, or change the size of the pictures (data.image_size)",
                name, 100 * share, POOR_OVERLAP, width, height,
            )  # fmt: skip


def anchor_grids(head: nn.Module) -> Iterator[tuple[str, AnchorGrid]]:
    """The anchors that boxes are predicted from, by the name of the part that has them: ``head`` or ``head.rpn``."""
    for path, module in head.named_modules(prefix="head"):
        if isinstance(module, AnchorGrid) and module.regressed:
            yield path.removesuffix(".anchors"), module


def object_sizes(index: CocoIndex, buckets: tuple[Shape, ...], bucket_of_image: np.ndarray) -> Tensor:
    """Width and height [M, 2] of all usable objects that are no crowds, as evaluation shows them to the network."""
    fitted = np.array(
        [fitted_size(height, width, buckets[b]) for (height, width), b in zip(index.sizes.tolist(), bucket_of_image, strict=True)]
    )
    scale = (fitted / index.sizes)[:, ::-1].repeat(np.diff(index.starts), axis=0)
    return torch.from_numpy((index.xywh[:, 2:] * scale)[index.usable & ~index.crowd]).float()


def anchor_fit(grid: AnchorGrid, objects: Tensor, picture: Shape) -> AnchorFit:
    """Compare the anchors on the maps of one ``picture`` (height, width) with ``objects`` [M, 2]."""
    boxes = grid([tuple(-(-side // int(stride)) for side in picture) for stride in grid.strides]).boxes.cpu()
    shapes = torch.unique(((boxes[:, 2:] - boxes[:, :2]) * 64).round() / 64, dim=0)  # equal but for rounding
    overlaps = [_best(chunk, shapes) for chunk in objects.split(max(1, PAIRS // len(shapes)))]
    return AnchorFit(torch.cat(overlaps), objects, shapes)


def _best(objects: Tensor, shapes: Tensor) -> Tensor:
    shared = torch.minimum(objects[:, None], shapes).prod(dim=2)
    return (shared / (objects.prod(dim=1)[:, None] + shapes.prod(dim=1) - shared)).amax(dim=1)
