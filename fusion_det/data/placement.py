"""Where a picture comes to lie in the network input: one crop, one resize, one paste, and the same numbers for its boxes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from fusion_det.data.buckets import Shape, fitted_size

MEAN_COLOUR = (124, 116, 104)
"""RGB of the padding: the mean of natural pictures, near 0 after normalisation."""

KEPT_IN_VIEW = 0.25
"""An object with less of its area in view is no longer taught as an object ..."""
IGNORED_IN_VIEW = 0.05
"""... and with more than this left it becomes a region to ignore, since something of it can still be seen."""


class Placement(NamedTuple):
    """A window of the stored picture and the rectangle of the network input that it fills, in whole pixels."""

    source: tuple[int, int, int, int]
    """Left, top, width, height in the original frame."""
    target: tuple[int, int, int, int]
    """Left, top, width, height in the network frame."""
    hflip: bool = False
    vflip: bool = False

    @property
    def scale(self) -> tuple[float, float]:
        """Network pixels per original pixel along x and y."""
        return self.target[2] / self.source[2], self.target[3] / self.source[3]


def fit(height: int, width: int, bucket: Shape) -> Placement:
    """The whole picture at the top left, as large as the bucket allows: what evaluation uses."""
    new_height, new_width = fitted_size(height, width, bucket)
    return Placement((0, 0, width, height), (0, 0, new_width, new_height))


def place(height: int, width: int, bucket: Shape, *, zoom: float, shift: tuple[float, float], hflip: bool, vflip: bool) -> Placement:
    """A picture zoomed relative to :func:`fit`; ``shift`` (x, y) in [0, 1] says where the free room, or the window, lies.

    A picture smaller than the bucket lies at fraction ``shift`` of the free room (0 is top left). A larger one shows a window of the
    bucket's size at fraction ``shift`` of its own free room. Each axis is treated by itself.
    """
    fitted_height, fitted_width = fitted_size(height, width, bucket)
    x = _along_axis(width, fitted_width * zoom / width, bucket[1], shift[0])
    y = _along_axis(height, fitted_height * zoom / height, bucket[0], shift[1])
    return Placement((x[0], y[0], x[1], y[1]), (x[2], y[2], x[3], y[3]), hflip, vflip)


def _along_axis(length: int, scale: float, room: int, shift: float) -> tuple[int, int, int, int]:
    """Source start and length, target start and length along one axis."""
    scaled = max(1, round(length * scale))
    if scaled <= room:
        return 0, length, round((room - scaled) * shift), scaled
    window = min(length, max(1, int(room / scale)))
    return round((length - window) * shift), window, 0, min(room, max(1, round(window * scale)))


def cut_and_resize(pixels: Tensor, placement: Placement) -> Tensor:
    """uint8 [3, h, w] of the target's size, cut from ``pixels`` uint8 [3, H, W], antialiased and flipped."""
    left, top, width, height = placement.source
    window = pixels[:, top : top + height, left : left + width]
    size = (placement.target[3], placement.target[2])
    if (height, width) != size:
        window = functional.resize(window, list(size), antialias=True)
    axes = [axis for axis, flipped in ((1, placement.vflip), (2, placement.hflip)) if flipped]
    return window.flip(axes) if axes else window


def paste(content: Tensor, placement: Placement, bucket: Shape) -> Tensor:
    """uint8 [3, H, W] of the bucket's shape: ``content`` at the target, the mean colour around it."""
    left, top, width, height = placement.target
    canvas = torch.empty((3, *bucket), dtype=torch.uint8)
    if (height, width) != bucket:
        canvas[:] = torch.tensor(MEAN_COLOUR, dtype=torch.uint8)[:, None, None]
    canvas[:, top : top + height, left : left + width] = content
    return canvas


class MovedBoxes(NamedTuple):
    """The objects that are left after a placement."""

    boxes: np.ndarray
    """float32 [n, 4] xyxy, network frame, clipped to the picture in view."""
    kept: np.ndarray
    """int64 [n]: which of the given boxes these are."""
    mostly_hidden: np.ndarray
    """bool [n]: to be ignored rather than found."""


def move_boxes(boxes: np.ndarray, crowd: np.ndarray, placement: Placement) -> MovedBoxes:
    """Boxes float64 [n, 4] xyxy in the original frame, moved with their picture.

    Dropped are boxes under 1 pixel in width or height and, unless ``crowd`` (bool [n]), those with 5 % of their area or less in view.
    """
    source_left, source_top, *_ = placement.source
    left, top, width, height = placement.target
    scale = np.tile(placement.scale, 2)
    moved = (boxes - np.array((source_left, source_top, source_left, source_top))) * scale
    if placement.hflip:
        moved[:, [0, 2]] = width - moved[:, [2, 0]]
    if placement.vflip:
        moved[:, [1, 3]] = height - moved[:, [3, 1]]
    seen = moved.clip(0, (width, height, width, height))
    extent = seen[:, 2:] - seen[:, :2]
    in_view = extent.prod(1) / (moved[:, 2:] - moved[:, :2]).prod(1).clip(min=1e-9)
    kept = np.flatnonzero((extent >= 1).all(1) & (crowd | (in_view > IGNORED_IN_VIEW)))
    seen = seen[kept] + np.array((left, top, left, top))
    return MovedBoxes(seen.astype(np.float32), kept, in_view[kept] < KEPT_IN_VIEW)
