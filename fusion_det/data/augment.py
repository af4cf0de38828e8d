"""Random changes of a training picture: zoom, shift, flips and colour. First everything is drawn, then applied.

With all strengths at zero the result is exactly that of the evaluation transform (:func:`evaluation_view`).
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from fusion_det.data.buckets import Shape
from fusion_det.data.colour import change_saturation, change_tone
from fusion_det.data.placement import Placement, cut_and_resize, fit, move_boxes, paste, place
from fusion_det.errors import ConfigError


class View(NamedTuple):
    """A picture and its objects as the network sees them."""

    pixels: Tensor
    """uint8 [3, H, W] of the bucket's shape."""
    boxes: np.ndarray
    """float32 [n, 4] xyxy, network frame."""
    labels: np.ndarray
    """int64 [n]."""
    crowd: np.ndarray
    """bool [n]: regions to ignore: annotated crowds, and objects of which little is left in view."""
    size: Shape
    """Height and width of the picture at the top left (evaluation); of the whole bucket when the picture was moved."""
    scale: tuple[float, float]
    """Network pixels per original pixel along x and y."""


class Change(NamedTuple):
    """One draw: what is to be done to one picture."""

    zoom: float
    shift: tuple[float, float]
    hflip: bool
    vflip: bool
    brightness: float
    contrast: float
    saturation: float


def _view(content: Tensor, placement: Placement, bucket: Shape, objects: tuple[np.ndarray, np.ndarray, np.ndarray], size: Shape) -> View:
    boxes, labels, crowd = objects
    moved = move_boxes(boxes, crowd, placement)
    crowd = crowd[moved.kept] | moved.mostly_hidden
    return View(paste(content, placement, bucket), moved.boxes, labels[moved.kept], crowd, size, placement.scale)


def evaluation_view(pixels: Tensor, boxes: np.ndarray, labels: np.ndarray, crowd: np.ndarray, bucket: Shape) -> View:
    """The whole picture, its aspect kept, at the top left of the bucket; arguments as for :meth:`Augment.apply`."""
    placement = fit(pixels.shape[1], pixels.shape[2], bucket)
    size = (placement.target[3], placement.target[2])
    return _view(cut_and_resize(pixels, placement), placement, bucket, (boxes, labels, crowd), size)


class Augment:
    """Draws and applies random changes. Probabilities and strengths lie in [0, 1]; 0 turns a change off.

    ``scale`` is the range of the zoom relative to the largest size at which the whole picture fits, drawn log-uniformly: below 1 the
    picture is smaller than its bucket, above 1 a window of it is shown. ``shift`` says how much of the free room the picture or the window
    may move in (0: top left, or the middle window). ``brightness``, ``contrast`` and ``saturation`` draw a factor from 1 - s to 1 + s,
    for a share ``colour_prob`` of the pictures.
    """

    def __init__(
        self,
        *,
        hflip: Annotated[float, Field(ge=0, le=1)],
        vflip: Annotated[float, Field(ge=0, le=1)],
        scale: tuple[PositiveFloat, PositiveFloat],
        shift: Annotated[float, Field(ge=0, le=1)],
        brightness: Annotated[float, Field(ge=0, le=1)],
        contrast: Annotated[float, Field(ge=0, le=1)],
        saturation: Annotated[float, Field(ge=0, le=1)],
        colour_prob: Annotated[float, Field(ge=0, le=1)],
    ) -> None:
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ConfigError(
                f"scale {list(scale)} is not [low, high] with 0 < low <= high", where="augment.scale", mend="e.g. [0.8, 1.25]"
            )
        self.hflip, self.vflip = hflip, vflip
        self.scale, self.shift = (float(scale[0]), float(scale[1])), shift
        self.brightness, self.contrast, self.saturation, self.colour_prob = brightness, contrast, saturation, colour_prob

    def draw(self, rng: np.random.Generator) -> Change:
        """One change. Always takes nine numbers from ``rng``, so that turning one change off leaves the others as they were."""
        hflip, vflip, zoom, x, y, colour, brightness, contrast, saturation = rng.random(9).tolist()
        low, high = self.scale
        strength = 1.0 if colour < self.colour_prob else 0.0
        return Change(
            zoom=low * (high / low) ** zoom,
            shift=(x, y),
            hflip=hflip < self.hflip,
            vflip=vflip < self.vflip,
            brightness=1 + strength * self.brightness * (2 * brightness - 1),
            contrast=1 + strength * self.contrast * (2 * contrast - 1),
            saturation=1 + strength * self.saturation * (2 * saturation - 1),
        )

    def apply(self, pixels: Tensor, boxes: np.ndarray, labels: np.ndarray, crowd: np.ndarray, change: Change, bucket: Shape) -> View:
        """The view of one picture: pixels uint8 [3, H, W], boxes float64 [n, 4] xyxy in its frame, labels int64 [n], crowd bool [n]."""
        placement = self._place(pixels.shape[1], pixels.shape[2], change, bucket)
        content = _recolour(cut_and_resize(pixels, placement), change)
        whole_at_corner = placement.target[:2] == (0, 0) and placement.source == (0, 0, pixels.shape[2], pixels.shape[1])
        size = (placement.target[3], placement.target[2]) if whole_at_corner else bucket
        return _view(content, placement, bucket, (boxes, labels, crowd), size)

    def _place(self, height: int, width: int, change: Change, bucket: Shape) -> Placement:
        middle = 0.5 if change.zoom > 1 else 0.0
        x, y = (middle + self.shift * (value - middle) for value in change.shift)
        return place(height, width, bucket, zoom=change.zoom, shift=(x, y), hflip=change.hflip, vflip=change.vflip)


def _recolour(content: Tensor, change: Change) -> Tensor:
    """uint8 [3, h, w] with tone and saturation changed."""
    if change.brightness == change.contrast == change.saturation == 1:
        return content
    changed = content.contiguous().numpy()
    if change.saturation != 1:
        changed = change_saturation(changed, change.saturation)
    return torch.from_numpy(change_tone(changed, change.brightness, change.contrast))
