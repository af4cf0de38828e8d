"""Reads a picture as RGB, turned the right way up; a file that cannot be used is a ``DataError`` that names it.

JPEG, PNG, BMP and WEBP are read, told apart by content and not by name; of animations the first frame. 16-bit samples are scaled by
1/257. Transparent pixels are laid over black: what is hidden under them is arbitrary. EXIF orientation is honoured, other metadata is not.
"""

from __future__ import annotations

import io
import stat
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fusion_det.errors import DataError

try:  # deprecated since torchvision 0.29 and to be removed; Pillow decodes to the same bits, 1.3 to 4 times slower
    from torchvision.io import ImageReadMode, decode_image

    warnings.filterwarnings("ignore", message="The image decoding and encoding capabilities", category=DeprecationWarning)
except ImportError:
    decode_image = None

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
PIXEL_LIMIT = 178_956_970
"""Largest picture in pixels: Pillow's own limit against decompression bombs, which is not raised."""

_ORIENTATION_TAG = 0x0112
_OTHER_KINDS = {
    b"GIF8": "a GIF",
    b"%PDF": "a PDF",
    b"%!PS": "PostScript",
    b"8BPS": "a Photoshop file",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"PK\x03\x04": "a ZIP archive",
    b"version https://git-lfs": "a Git LFS pointer (the picture itself was not fetched)",
}


def read_image(path: Path) -> Tensor:
    """uint8 [3, H, W] RGB of any strides, turned by its EXIF orientation.

    Raises a ``DataError`` for a file that is missing, empty, truncated, no picture of a known kind, or too large to decode safely.
    """
    data = _read_bytes(path)
    with _open(path, data) as picture:
        orientation = _orientation(picture)
        try:
            pixels = _decode(data, picture)
        except Exception as error:  # decoders raise many kinds; whichever it is, this file cannot be used
            mend = "copy or download it again, or take it out of the annotation file"
            raise DataError(f"the picture is damaged or truncated ({len(data)} bytes)", where=str(path), mend=mend) from error
    return _turn(pixels, orientation)


def read_size(path: Path) -> tuple[int, int]:
    """Height and width after EXIF turning, from the header alone."""
    with _open(path, _read_bytes(path)) as picture:
        width, height = picture.size
        return (width, height) if _orientation(picture) >= 5 else (height, width)


def _read_bytes(path: Path) -> np.ndarray:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would block for ever
            raise DataError("is not a regular file", where=str(path))
        if status.st_size == 0:
            raise DataError("the picture has 0 bytes", where=str(path), mend="copy or download it again")
        return np.fromfile(path, dtype=np.uint8)
    except (OSError, ValueError) as error:
        reason = "image file not found" if isinstance(error, FileNotFoundError) else f"cannot be read: {getattr(error, 'strerror', error)}"
        raise DataError(reason, where=str(path)) from error


def _open(path: Path, data: np.ndarray) -> Image.Image:
    """The header of a picture; nothing is decoded yet."""
    try:
        picture = Image.open(io.BytesIO(data.data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError(f"the picture has more than {PIXEL_LIMIT} pixels", where=str(path), mend="scale it down or cut it up") from error
    except Exception as error:  # as above
        raise DataError(_kind(data), where=str(path), mend="convert it to JPEG or PNG, or fetch it again") from error
    if picture.width * picture.height > PIXEL_LIMIT:
        raise DataError(f"the picture has more than {PIXEL_LIMIT} pixels", where=str(path), mend="scale it down or cut it up")
    return picture


def _kind(data: np.ndarray) -> str:
    start = data[:64].tobytes()
    if b"<html" in data[:1024].tobytes().lower() or start.lstrip().lower().startswith(b"<!doctype html"):
        return "this is a web page (HTML), not a picture"
    if start.lstrip().startswith(b"<"):
        return "this is XML or SVG, not a picture of JPEG, PNG, BMP or WEBP"
    named = next((kind for magic, kind in _OTHER_KINDS.items() if start.startswith(magic)), None)
    if named:
        return f"this is {named}, not a picture of JPEG, PNG, BMP or WEBP"
    if start.startswith((b"\xff\xd8", b"\x89PNG", b"BM", b"RIFF")):
        return f"the header of the picture is damaged ({len(data)} bytes)"
    return "this is not a picture of JPEG, PNG, BMP or WEBP"


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation 1..8; 1 when there is none or the EXIF block is broken."""
    block = picture.info.get("exif")
    if not block:
        return 1
    try:
        exif = Image.Exif()
        exif.load(block)
        value = exif.get(_ORIENTATION_TAG, 1)
    except Exception:  # a broken EXIF block is common and does not spoil the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _decode(data: np.ndarray, picture: Image.Image) -> Tensor:
    """uint8 [3, H, W]: by torchvision for the usual kinds, by Pillow for the others."""
    png, keyed = picture.format == "PNG", "transparency" in picture.info
    if decode_image and (
        (picture.format in ("JPEG", "MPO", "PNG") and picture.mode in ("RGB", "L") and not keyed) or picture.mode[0] == "I"
    ):
        return _to_eight_bits(decode_image(torch.from_numpy(data), mode=ImageReadMode.RGB))
    if decode_image and png and picture.mode in ("RGBA", "LA"):
        return _over_black(_to_eight_bits(decode_image(torch.from_numpy(data), mode=ImageReadMode.RGB_ALPHA)))
    if picture.mode[0] == "I":  # 16-bit grey, which Pillow would clip at 255
        return _to_eight_bits(torch.from_numpy(np.array(picture).astype(np.int32))).expand(3, -1, -1)
    if "A" in picture.mode or keyed:
        return _over_black(_from_pillow(picture.convert("RGBA")))
    return _from_pillow(picture.convert("RGB"))


def _from_pillow(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _to_eight_bits(pixels: Tensor) -> Tensor:
    return pixels if pixels.dtype == torch.uint8 else ((pixels.to(torch.int32) + 128) // 257).to(torch.uint8)


def _over_black(pixels: Tensor) -> Tensor:
    colour, alpha = pixels[:3].to(torch.int32), pixels[3:].to(torch.int32)
    return ((colour * alpha + 127) // 255).to(torch.uint8)


def _turn(pixels: Tensor, orientation: int) -> Tensor:
    """Undo an EXIF orientation."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 2)
    flips = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}.get(orientation)
    return pixels.flip(flips) if flips else pixels
