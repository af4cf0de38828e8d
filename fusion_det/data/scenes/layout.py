"""What lies where: classes, sizes and places of the objects of one picture. Nothing is drawn here.

Nothing overlaps: footprints keep ``spacing`` px apart, so every box is exact as seen and no cue is hidden. Where a picture is too full
an object is left out; large objects look for their place first, so that crowding does not thin out the large sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusion_det.data.scenes.settings import FACTORS, SceneSettings

Box = tuple[int, int, int, int]

_TRIES = 48
_CUE_TRIES = 8
_OTHER_CUE = 1.5
"""Any other cue of a picture lies at least this many times as far from a cross as the cross's own."""


@dataclass(frozen=True)
class Thing:
    """One drawn thing. ``kind`` is a class name or ``cue``; both boxes are whole px ``xyxy``."""

    kind: str
    box: Box
    """Tight extent of the object, what is annotated."""
    footprint: Box
    """Everything drawn for it; larger than the box for a ``gap``, whose box is the opening."""
    label: int = 0
    """Which of the cue colours a cue shows; unused elsewhere."""
    stripe: tuple[int, int] = (1, 0)
    """Width and phase of a texture in px."""
    crowd: bool = False
    cue_distance: float = math.nan
    """Centre to centre, px, for a cross."""


@dataclass(frozen=True)
class _Wish:
    """An object that still looks for its place."""

    kind: str
    width: int
    height: int
    margins: Box = (0, 0, 0, 0)
    stripe: tuple[int, int] = (1, 0)
    crowd: bool = False

    @property
    def extent(self) -> tuple[int, int]:
        left, top, right, bottom = self.margins
        return self.width + left + right, self.height + top + bottom


def lay_out(settings: SceneSettings, rng: np.random.Generator, cue_labels: tuple[int, ...]) -> tuple[Thing, ...]:
    """Things of one picture, cues first. ``cue_labels`` (one per cue) come from outside and touch nothing but cues and cross classes."""
    if rng.random() < settings.empty_share:
        return ()
    low, high = settings.objects
    count = int(rng.integers(low, high + 1))
    which = np.searchsorted(np.cumsum(settings.shares)[:-1], rng.random(count), side="right")
    factors = [settings.factors[int(i)] for i in which]
    wishes = [_wish(settings, rng, factor) for factor in factors if factor != "context"]
    if rng.random() < settings.crowd_share:
        side = int(rng.integers(settings.image_size // 6, settings.image_size // 3 + 1))
        wishes.append(_Wish(kind=str(rng.choice(FACTORS["plain"])), width=side, height=side, crowd=True))
    things = _lay_context(settings, rng, crosses=factors.count("context"), cue_labels=cue_labels)
    for wish in sorted(wishes, key=lambda wish: wish.extent[0] * wish.extent[1], reverse=True):
        places = _free_places(settings, rng, wish.extent, [thing.footprint for thing in things])
        if len(places):
            things.append(_put(wish, int(places[0, 0]), int(places[0, 1])))
    return tuple(things)


def _wish(settings: SceneSettings, rng: np.random.Generator, factor: str) -> _Wish:
    """Class and size of an object of ``factor``: classes equally often, sizes log-uniform."""
    kind = FACTORS[factor][int(rng.integers(len(FACTORS[factor])))]
    size = _log_uniform(rng, getattr(settings, f"{factor}_size"))
    if factor == "detail":
        width = int(rng.integers(settings.stripe_width[0], settings.stripe_width[1] + 1))
        return _Wish(kind, size, size, stripe=(width, int(rng.integers(2 * width))))
    if factor == "precision":
        low, high = settings.gap_margin
        margins = rng.integers(low, high + 1, 4).tolist() if kind == "gap" else (0, 0, 0, 0)
        return _Wish(kind, size, _log_uniform(rng, settings.precision_size), margins=tuple(margins))
    return _Wish(kind, size, size)


def _lay_context(settings: SceneSettings, rng: np.random.Generator, *, crosses: int, cue_labels: tuple[int, ...]) -> list[Thing]:
    """Cues and their crosses; several arrangements are tried, and the one with most crosses stays (none: no cue either)."""
    best: list[Thing] = []
    if not crosses:
        return best
    sizes = [_log_uniform(rng, settings.cross_size) for _ in range(crosses)]
    cue_sizes = [_log_uniform(rng, settings.cue_size) for _ in cue_labels]
    owners = np.arange(crosses) % len(cue_labels)
    for _ in range(_CUE_TRIES):
        things: list[Thing] = []
        for label, size in zip(cue_labels, cue_sizes, strict=True):
            places = _free_places(settings, rng, (size, size), [thing.footprint for thing in things])
            if len(places):
                box = _square(places[0], size)
                things.append(Thing("cue", box, box, label=label))
        if len(things) < len(cue_labels):
            continue
        centres = np.array([_centre(cue.box) for cue in things])
        for owner, size in zip(owners.tolist(), sizes, strict=True):
            places = _free_places(settings, rng, (size, size), [thing.footprint for thing in things])
            places, distances = _in_reach(settings, places, size, centres, owner)
            if len(places):
                box = _square(places[0], size)
                kind = FACTORS["context"][cue_labels[owner]]
                things.append(Thing(kind, box, box, cue_distance=float(distances[0])))
        if len(things) > max(len(best), len(cue_labels)):
            best = things
        if len(best) == len(cue_labels) + crosses:
            break
    return best


def _in_reach(
    settings: SceneSettings, places: NDArray[np.int64], size: int, centres: NDArray[np.float64], owner: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The places whose own cue lies within ``cue_distance`` while every other cue lies clearly farther, and those distances."""
    distances = np.linalg.norm(places[:, None, :] + size / 2 - centres[None, :, :], axis=2)
    own = distances[:, owner]
    others = np.delete(distances, owner, axis=1)
    fits = (own >= settings.cue_distance[0]) & (own <= settings.cue_distance[1]) & (others >= _OTHER_CUE * own[:, None]).all(axis=1)
    return places[fits], own[fits]


def _free_places(settings: SceneSettings, rng: np.random.Generator, extent: tuple[int, int], taken: list[Box]) -> NDArray[np.int64]:
    """Top left corners ``[n, 2]`` (x, y), uniform over the picture, where a thing of ``extent`` keeps clear of all that is taken."""
    width, height = extent
    if width > settings.image_size or height > settings.image_size:
        return np.empty((0, 2), dtype=np.int64)
    limits = (settings.image_size - width + 1, settings.image_size - height + 1)
    places = rng.integers(0, limits, (_TRIES, 2))
    if not taken:
        return places
    boxes = np.array(taken)
    near = places[:, None, :] < boxes[None, :, 2:] + settings.spacing
    far = places[:, None, :] + (width, height) > boxes[None, :, :2] - settings.spacing
    return places[~np.any(np.all(near & far, axis=2), axis=1)]


def _put(wish: _Wish, x: int, y: int) -> Thing:
    left, top, _, _ = wish.margins
    width, height = wish.extent
    box = (x + left, y + top, x + left + wish.width, y + top + wish.height)
    return Thing(wish.kind, box, (x, y, x + width, y + height), stripe=wish.stripe, crowd=wish.crowd)


def _square(place: NDArray[np.int64], size: int) -> Box:
    x, y = int(place[0]), int(place[1])
    return (x, y, x + size, y + size)


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _log_uniform(rng: np.random.Generator, limits: tuple[int, int]) -> int:
    """Whole px, log-uniform over ``limits``, both included."""
    low, high = limits
    return min(high, int(low * math.exp(rng.random() * math.log((high + 1) / low))))
