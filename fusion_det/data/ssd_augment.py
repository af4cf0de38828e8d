"""SSD's random pictures: canvases with much room, windows by their overlap with an object, strong colours."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from pydantic import PositiveFloat
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from fusion_det.config.types import UnitInterval
from fusion_det.data.augment import View
from fusion_det.data.buckets import Shape, fitted_size
from fusion_det.data.placement import Placement, cut_and_resize, move_boxes, paste
from fusion_det.errors import ConfigError

Window = tuple[int, int, int, int]
"""Left, top, width and height."""


class SSDAugment:
    """The training pictures of SSD (Liu et al., ECCV 2016, arXiv 1512.02325, section 2.2, and the later "expand" of its SSD300* models).

    With probability ``zoom_out`` the picture lies anywhere on a canvas of the mean colour, up to ``largest_canvas`` times as wide and high.
    Then a window of it, of ``crop_scale`` times its sides and an aspect (width / height) in ``crop_aspect``, that overlaps some object by
    at least one of ``overlaps``, drawn each time; 1 and more stand for the whole canvas. Objects stay if their centre does.
    Mirroring with probability ``hflip``; each change of brightness, contrast, saturation, hue and order of channels with ``photometric``.

    What is drawn and how colours change is torchvision's (``transforms.v2``). The picture itself is cut and resized once, and colours
    change in the small picture: the same up to interpolation, at a fraction of the time. Deviation from the official code: it never changes
    the order of the channels. The paper's windows begin at 0.1 of the area, the code's at 0.3 of the sides.
    """

    def __init__(
        self,
        *,
        hflip: UnitInterval,
        zoom_out: UnitInterval,
        largest_canvas: PositiveFloat,
        overlaps: list[float],
        crop_scale: tuple[PositiveFloat, PositiveFloat],
        crop_aspect: tuple[PositiveFloat, PositiveFloat],
        photometric: UnitInterval,
    ) -> None:
        if largest_canvas < 1:
            raise ConfigError(f"a canvas of {largest_canvas} times the picture", where="augment.largest_canvas", mend="use 1 or more")
        for key, (low, high) in (("crop_scale", crop_scale), ("crop_aspect", crop_aspect)):
            if not low <= high or (key == "crop_scale" and high > 1):
                limit = " <= 1" if key == "crop_scale" else ""
                raise ConfigError(f"{key} [{low}, {high}] is not [low, high] with low <= high{limit}", where=f"augment.{key}")
        if not overlaps or max(overlaps) < 1:
            fault = f"overlaps {overlaps} have no 1.0: a picture without objects would be tried for ever"
            raise ConfigError(fault, where="augment.overlaps", mend="add 1.0, which stands for the whole picture")
        self.hflip, self.zoom_out = hflip, zoom_out
        self.canvas = v2.RandomZoomOut(side_range=(1.0, float(largest_canvas)), p=1.0)
        self.crop = v2.RandomIoUCrop(
            min_scale=crop_scale[0], max_scale=crop_scale[1], min_aspect_ratio=crop_aspect[0], max_aspect_ratio=crop_aspect[1],
            sampler_options=overlaps,
        )  # fmt: skip
        self.colours = v2.RandomPhotometricDistort(p=photometric)

    def draw(self, rng: np.random.Generator) -> int:
        """A seed: torchvision draws from torch's own generator, and windows depend on the objects."""
        return int(rng.integers(2**62))

    def apply(self, pixels: Tensor, boxes: np.ndarray, labels: np.ndarray, crowd: np.ndarray, change: int, bucket: Shape) -> View:
        """The view of one picture; arguments as for :meth:`fusion_det.data.augment.Augment.apply`."""
        height, width = pixels.shape[1:]
        with seeded(change):
            mirrored = bool(torch.rand(()) < self.hflip)
            place, canvas = self._place_on_canvas(height, width)
            window, inside = self._cut(boxes + np.tile(place, 2), canvas)
            placement, size = arrange((place[0], place[1], width, height), window, bucket, mirrored=mirrored)
            content = self.colours(cut_and_resize(pixels, placement))
        boxes, labels, crowd = boxes[inside], labels[inside], crowd[inside]
        # An object whose centre is in view stays one however little of it is: no share of its area counts, as if it were a crowd region.
        moved = move_boxes(boxes, np.ones_like(crowd), placement)
        return View(paste(content, placement, bucket), moved.boxes, labels[moved.kept], crowd[moved.kept], size, placement.scale)

    def _place_on_canvas(self, height: int, width: int) -> tuple[tuple[int, int], Shape]:
        """Left and top of the picture on its canvas, height and width of the canvas."""
        if torch.rand(()) >= self.zoom_out:
            return (0, 0), (height, width)
        left, top, right, bottom = self.canvas.make_params([_frame(height, width)])["padding"]
        return (left, top), (top + height + bottom, left + width + right)

    def _cut(self, boxes: np.ndarray, canvas: Shape) -> tuple[Window, np.ndarray]:
        """A window of the canvas, and which of the boxes [n, 4] have their centre in it."""
        whole = (0, 0, canvas[1], canvas[0]), np.ones(len(boxes), dtype=bool)
        if min(canvas) * self.crop.min_scale < 1:  # torchvision would divide by a side of 0
            return whole
        objects = tv_tensors.BoundingBoxes(torch.from_numpy(boxes).float().reshape(-1, 4), format="XYXY", canvas_size=canvas)
        found = self.crop.make_params([_frame(*canvas), objects])
        if not found:
            return whole
        return (found["left"], found["top"], found["width"], found["height"]), found["is_within_crop_area"].numpy()


def arrange(picture: Window, window: Window, bucket: Shape, *, mirrored: bool) -> tuple[Placement, Shape]:
    """The part of ``picture`` that lies in ``window``, both on one canvas, and where it goes when the window is fitted into ``bucket``.

    Also the height and width that the window gets.
    """
    fitted = fitted_size(window[3], window[2], bucket)
    axes = [
        _along_axis(picture[axis], picture[axis] + picture[axis + 2], window[axis], window[axis + 2], fitted[1 - axis]) for axis in (0, 1)
    ]
    (left, width, target_left, target_width), (top, height, target_top, target_height) = axes
    if mirrored:
        target_left = fitted[1] - target_left - target_width
    return Placement((left, top, width, height), (target_left, target_top, target_width, target_height), hflip=mirrored), fitted


def _along_axis(start: int, end: int, window_start: int, window: int, room: int) -> tuple[int, int, int, int]:
    """Source start and length in the picture, target start and length; at least one pixel of both."""
    seen_start = min(max(start, window_start), end - 1)
    seen_end = max(min(end, window_start + window), seen_start + 1)
    target = min(max(0, math.floor((seen_start - window_start) * room / window + 0.5)), room - 1)
    target_end = min(max(math.floor((seen_end - window_start) * room / window + 0.5), target + 1), room)
    return seen_start - start, seen_end - seen_start, target, target_end - target


def _frame(height: int, width: int) -> tv_tensors.Image:
    """A picture of that size without pixels, which is all that torchvision's draws look at."""
    return tv_tensors.Image(torch.empty(3, height, width, dtype=torch.uint8, device="meta"))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's CPU generator started from ``seed``, and put back afterwards; GPU generators stay as they are."""
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)
