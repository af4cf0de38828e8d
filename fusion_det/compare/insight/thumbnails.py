"""Small copies of pictures as ``data:`` addresses. Imports torch, through the reader of pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

_STEPS = ((320, 75), (256, 65), (192, 55))
"""Longest side in pixels and quality, tried in turn."""


def thumbnails(paths: Sequence[Path], most_bytes: int) -> list[str]:
    """One for each of ``paths``; fewer, the first ones, if even small ones are more than ``most_bytes`` letters together.

    Raises ``DataError`` for a picture that cannot be read.
    """
    uris: list[str] = []
    for side, quality in _STEPS:
        uris = [_thumbnail(path, side, quality) for path in paths]
        if sum(map(len, uris)) <= most_bytes:
            return uris
    while sum(map(len, uris)) > most_bytes:
        uris.pop()
    return uris


def _thumbnail(path: Path, side: int, quality: int) -> str:
    from PIL import Image

    from fusion_det.data.images import read_image

    picture = Image.fromarray(read_image(path).movedim(0, -1).numpy())
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
