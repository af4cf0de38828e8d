"""From a layout to pixels: background, clutter, objects, noise. Works on the patch of each thing, never on whole-picture masks.

Colours. Only cues are red or blue. Everything else keeps ``max(R, B) <= 1.15 * G`` (greens, yellows, cyans, greys), a set closed under
blending, so no background or object can be taken for a cue; noise is grey and keeps the differences between channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusion_det.data.scenes.layout import Box, Thing
from fusion_det.data.scenes.settings import FACTORS, FRAME_LINE, SceneSettings
from fusion_det.data.scenes.shapes import shape_mask, texture_mask

Pixels = NDArray[np.uint8]

CUE_COLOURS = np.array([[225, 45, 45], [50, 70, 225]], dtype=np.uint8)
"""RGB of the cue, in the order of the classes of the factor ``context``."""
CROSS_COLOUR = np.array([235, 235, 235], dtype=np.uint8)
"""One colour for every cross: identical but for their place and size."""
CROWD_PITCH = 8
"""Distance of the members of a crowd in px."""

_BRIGHT, _DARK, _GROUND = (160, 245), (10, 45), (55, 115)  # ranges of G; the three never meet, so objects stand out


def paint(settings: SceneSettings, things: Iterable[Thing], rng: np.random.Generator) -> Pixels:
    """The picture, uint8 ``[H, W, 3]`` RGB. What ``rng`` gives depends on the number of things, never on the colour of a cue."""
    image = _background(settings.image_size, rng)
    _scatter_clutter(image, settings.clutter, rng)
    things = tuple(things)
    colours = _object_colours(len(things), rng)
    for thing, pair in zip(things, colours, strict=True):
        draw(image, thing, pair)
    return _with_noise(image, settings.noise, rng)


def draw(image: Pixels, thing: Thing, colours: Pixels) -> None:
    """Draw one thing into ``image`` in place; ``colours`` is uint8 ``[2, 3]``: its own colour, and the other one of a texture."""
    patch = _patch(image, thing.footprint)
    width = thing.box[2] - thing.box[0]
    if thing.crowd:
        _draw_crowd(patch, thing.kind, colours)
    elif thing.kind == "cue":
        patch[shape_mask("cue", width)] = CUE_COLOURS[thing.label]
    elif thing.kind in FACTORS["context"]:
        patch[shape_mask(thing.kind, width)] = CROSS_COLOUR
    elif thing.kind in FACTORS["detail"]:
        mask = texture_mask(thing.kind, width, *thing.stripe)
        patch[...] = np.where(mask[:, :, None], colours[0], colours[1])
    elif thing.kind in FACTORS["precision"]:
        _draw_border(image, thing, colours[0])
    else:
        patch[shape_mask(thing.kind, width)] = colours[0]


def _patch(image: Pixels, box: Box) -> Pixels:
    return image[box[1] : box[3], box[0] : box[2]]


def _draw_border(image: Pixels, thing: Thing, colour: Pixels) -> None:
    """A frame's thin line just inside its box, or the uneven margins around the opening that is a gap's box."""
    opening = thing.box
    if thing.kind == "frame":
        x0, y0, x1, y1 = thing.box
        opening = (x0 + FRAME_LINE, y0 + FRAME_LINE, x1 - FRAME_LINE, y1 - FRAME_LINE)
    x0, y0, x1, y1 = thing.footprint
    for side in (
        (x0, y0, x1, opening[1]),
        (x0, opening[3], x1, y1),
        (x0, opening[1], opening[0], opening[3]),
        (opening[2], opening[1], x1, opening[3]),
    ):
        _patch(image, side)[...] = colour


def _draw_crowd(patch: Pixels, kind: str, colours: Pixels) -> None:
    """Small members on a grid that reaches all four sides, so that the crowd's box is tight; the two colours take turns."""
    side, size = patch.shape[0], CROWD_PITCH - 2
    mask = shape_mask(kind, size)
    starts = np.unique(np.append(np.arange(0, side - 2 * size, CROWD_PITCH), (0, side - size))).tolist()
    for row, y in enumerate(starts):
        for column, x in enumerate(starts):
            patch[y : y + size, x : x + size][mask] = colours[(row + column) % 2]


def _background(size: int, rng: np.random.Generator) -> Pixels:
    """Smooth colour fields of three scales on top of one another, the coarsest strongest; mixed small, then enlarged once."""
    side = max(8, size // 8)
    coarse, middle, fine = (
        Image.fromarray(_tints(_GROUND, (cells, cells), rng)).resize((side, side), Image.Resampling.BILINEAR)
        for cells in (3, max(4, size // 24), side)
    )
    mixed = Image.blend(Image.blend(middle, fine, 0.5), coarse, 0.5)
    return np.array(mixed.resize((size, size), Image.Resampling.BILINEAR))


def _scatter_clutter(image: Pixels, count: int, rng: np.random.Generator) -> None:
    """Half-transparent slanted ellipses of all sizes, from specks and strokes to large stains: no class looks like them."""
    size = image.shape[0]
    amounts = rng.random((count, 5))
    tints = np.where(rng.random((count, 1)) < 0.5, _tints(_BRIGHT, (count,), rng), _tints(_DARK, (count,), rng))
    for (x, y, length, aspect, angle), tint in zip(amounts.tolist(), tints, strict=True):
        long = 2.0 * (size / 8) ** length
        short = max(0.8, long * (0.08 + 0.42 * aspect**2))
        x, y, angle = x * size, y * size, angle * math.pi
        reach_x = math.hypot(long * math.cos(angle), short * math.sin(angle))
        reach_y = math.hypot(long * math.sin(angle), short * math.cos(angle))
        x0, x1 = max(0, int(x - reach_x)), min(size, int(x + reach_x) + 1)
        y0, y1 = max(0, int(y - reach_y)), min(size, int(y + reach_y) + 1)
        right = np.arange(x0, x1, dtype=np.float32)[None, :] + 0.5 - x
        down = np.arange(y0, y1, dtype=np.float32)[:, None] + 0.5 - y
        along = (right * math.cos(angle) + down * math.sin(angle)) / long
        across = (down * math.cos(angle) - right * math.sin(angle)) / short
        patch, inside = image[y0:y1, x0:x1], along * along + across * across <= 1
        patch[inside] = (patch[inside] >> 1) + (tint >> 1)


def _object_colours(count: int, rng: np.random.Generator) -> Pixels:
    """uint8 ``[count, 2, 3]``: one bright and one dark colour per thing, in random order."""
    pairs = np.stack([_tints(_BRIGHT, (count,), rng), _tints(_DARK, (count,), rng)], axis=1)
    swap = rng.random(count) < 0.5
    pairs[swap] = pairs[swap, ::-1]
    return pairs


def _tints(green: tuple[int, int], shape: tuple[int, ...], rng: np.random.Generator) -> Pixels:
    """uint8 ``[*shape, 3]``: G uniform in ``green``, R and B between 0.55 and 1.15 of it."""
    level = rng.uniform(*green, (*shape, 1))
    ratios = rng.uniform(0.55, 1.15, (*shape, 3))
    ratios[..., 1] = 1
    return np.minimum(level * ratios, 255).astype(np.uint8)


def _with_noise(image: Pixels, amplitude: int, rng: np.random.Generator) -> Pixels:
    """Grey noise per pixel, uniform within plus and minus ``amplitude`` levels; the picture is first kept clear of black and white."""
    if not amplitude:
        return image
    noise = rng.integers(0, 2 * amplitude + 1, image.shape[:2], dtype=np.uint8)
    np.clip(image, amplitude, 255 - amplitude, out=image)
    return image + (np.repeat(noise, 3, axis=1).reshape(image.shape) - np.uint8(amplitude))  # modulo 256, and the sum fits again
