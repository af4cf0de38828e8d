"""One picture and its annotations as a pure function of (seed, split, index)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusion_det.data.scenes.layout import Thing, lay_out
from fusion_det.data.scenes.paint import paint
from fusion_det.data.scenes.settings import FACTORS, SceneSettings

SPLITS = ("train", "val")
GENERATOR_VERSION = 1
"""Raise it with every change that alters a pixel or a box: it is part of the folder's digest, so old folders are never mistaken for new."""

_LAYOUT, _CUE, _PAINT = range(3)


class Scene(NamedTuple):
    """A picture with its N annotations."""

    pixels: NDArray[np.uint8]
    """uint8 [H, W, 3] RGB."""
    boxes: NDArray[np.float32]
    """float32 [N, 4] xyxy in px, tight."""
    labels: NDArray[np.int64]
    """int64 [N], indices into ``settings.classes``."""
    crowd: NDArray[np.bool_]
    """bool [N]."""
    cue_distances: NDArray[np.float64]
    """float64 [N]: px from a cross to its cue, NaN for anything else."""


def render(seed: int, split: str, index: int, settings: SceneSettings) -> Scene:
    """Picture ``index`` of ``split``; depends on nothing but the arguments (``settings.seed`` is not read)."""
    things = plan(seed, split, index, settings)
    pixels = paint(settings, things, _stream(seed, split, index, _PAINT))
    objects = [thing for thing in things if thing.kind != "cue"]
    classes = settings.classes
    return Scene(
        pixels=pixels,
        boxes=np.array([thing.box for thing in objects], dtype=np.float32).reshape(-1, 4),
        labels=np.array([classes.index(thing.kind) for thing in objects], dtype=np.int64),
        crowd=np.array([thing.crowd for thing in objects], dtype=np.bool_),
        cue_distances=np.array([thing.cue_distance for thing in objects], dtype=np.float64),
    )


def plan(seed: int, split: str, index: int, settings: SceneSettings) -> tuple[Thing, ...]:
    """What the picture shows, cues included. Colours of cues come from their own stream, so nothing else can hint at them."""
    drawn = _stream(seed, split, index, _CUE).integers(len(FACTORS["context"]), size=settings.cues)
    return lay_out(settings, _stream(seed, split, index, _LAYOUT), tuple(drawn.tolist()))


def _stream(seed: int, split: str, index: int, part: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, SPLITS.index(split), index, part))))
