"""Colour changes of uint8 pictures in whole-number arithmetic: fast, and the same bits on every machine and thread count."""

from __future__ import annotations

import numpy as np

SATURATION_UNIT = 64
"""Saturation factors are multiples of 1/64 below 2, so that differences times factor stay within int16."""


def change_tone(pixels: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    """uint8 of any shape, C-contiguous: contrast about mid-grey, then brightness, by one table of 256 entries; factors, 1 is no change."""
    table = ((np.arange(256) - 128) * contrast + 128) * brightness
    entries = np.round(table.clip(0, 255)).astype(np.uint8).tobytes()
    return np.frombuffer(bytearray(pixels.tobytes()).translate(entries), dtype=np.uint8).reshape(pixels.shape)


def change_saturation(pixels: np.ndarray, factor: float) -> np.ndarray:
    """uint8 [3, H, W] RGB with its distance from grey multiplied by ``factor`` in [0, 2); 1 is no change."""
    step = min(2 * SATURATION_UNIT - 1, max(0, round(factor * SATURATION_UNIT)))
    red, green, blue = pixels.astype(np.uint16)
    grey = ((red * 77 + green * 150 + blue * 29 + 128) >> 8).astype(np.int16)
    mixed = pixels.astype(np.int16)
    mixed -= grey
    mixed *= np.int16(step)
    mixed += np.int16(SATURATION_UNIT // 2)
    mixed >>= 6
    mixed += grey
    return np.clip(mixed, 0, 255, out=mixed).astype(np.uint8)
