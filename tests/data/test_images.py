"""Pictures of every usual kind are read right; files that are not pictures are refused by name, quickly and safely."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fusion_det.data import images
from fusion_det.data.images import PIXEL_LIMIT, read_image, read_size
from fusion_det.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding", "ignore:Corrupt EXIF")


@pytest.fixture(autouse=True, params=["torchvision", "pillow"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs with both decoders: torchvision's will go away."""
    if request.param == "pillow":
        monkeypatch.setattr(images, "decode_image", None)
    return request.param


def scene(height: int = 40, width: int = 60) -> np.ndarray:
    """A smooth coloured picture without symmetry, uint8 [H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + 2 * y) * 255 // (width + 2 * height)], -1).astype(np.uint8)


def read(path: Path) -> np.ndarray:
    pixels = read_image(path)
    assert pixels.dtype == torch.uint8
    assert pixels.shape[0] == 3
    height, width = read_size(path)
    assert tuple(pixels.shape[1:]) == (height, width)
    return pixels.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "lossless.webp", "png-named.jpg"])
def test_lossless_kinds_are_exact(name: str, tmp_path: Path) -> None:
    kind = {"lossless.webp": "webp", "png-named.jpg": "png"}.get(name, name[2:])
    Image.fromarray(scene()).save(tmp_path / name, kind, **({"lossless": True} if kind == "webp" else {}))
    assert np.array_equal(read(tmp_path / name), scene())


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_equals_pillow(mode: str, progressive: bool, tmp_path: Path) -> None:
    Image.fromarray(scene()).convert(mode).save(tmp_path / "a.jpg", quality=92, progressive=progressive)
    assert np.array_equal(read(tmp_path / "a.jpg"), np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB")))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.fromarray(scene()).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    difference = read(tmp_path / "a.jpg").astype(int) - scene()
    assert np.abs(difference.mean((0, 1))).max() < 3
    assert np.abs(difference).max() < 40


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_few_colours(mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(scene()).convert(mode)
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png"), np.asarray(picture.convert("RGB")))


def _alpha() -> np.ndarray:
    alpha = np.full((40, 60), 255, np.uint8)
    alpha[:, :20], alpha[:, 20:40] = 0, 102
    return alpha


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_transparency_is_laid_over_black(kind: str, tmp_path: Path) -> None:
    image = np.dstack([scene(), _alpha()])
    Image.fromarray(image).save(tmp_path / f"a.{kind}", **({"lossless": True, "exact": True} if kind == "webp" else {}))
    expected = np.round(scene().astype(float) * (_alpha() / 255.0)[..., None])
    assert np.array_equal(read(tmp_path / f"a.{kind}"), expected)


def test_grey_and_palette_with_transparency(tmp_path: Path) -> None:
    grey = scene()[..., 0]
    Image.fromarray(np.dstack([grey, _alpha()])).save(tmp_path / "la.png")
    expected = np.round(grey * (_alpha() / 255.0))
    assert np.array_equal(read(tmp_path / "la.png"), np.dstack([expected] * 3))
    palette = Image.fromarray(np.tile(np.arange(3, dtype=np.uint8), (2, 1)))
    palette.putpalette([250, 10, 20, 30, 240, 50, 60, 70, 230])
    palette.save(tmp_path / "p.png", transparency=1)
    assert read(tmp_path / "p.png")[0].tolist() == [[250, 10, 20], [0, 0, 0], [60, 70, 230]]


def _png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_scaled(colour: int, channels: int, decoder: str, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(0, 65536, (5, 300, channels), dtype=np.uint16)
    samples[0, :2] = [[0], [65535]]
    if channels in (2, 4):
        samples[..., -1] = 65535
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    (tmp_path / "a.png").write_bytes(_png(300, 5, 16, colour, rows))
    eight = np.round(samples / 257.0).astype(np.uint8)
    expected = np.repeat(eight[..., :1], 3, axis=2) if channels < 3 else eight[..., :3]
    difference = np.abs(read(tmp_path / "a.png").astype(int) - expected)
    rounding = 0 if decoder == "torchvision" or channels == 1 else 1  # Pillow cuts colours to their high byte itself
    assert difference.max() <= rounding


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "cmyk.jpg"])
def test_exif_orientation(name: str, orientation: int, tmp_path: Path) -> None:
    """One code for all decoders; the truth is Pillow's own turning."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(scene()).convert("CMYK" if name == "cmyk.jpg" else "RGB")
    picture.save(tmp_path / name, exif=exif, **({"lossless": True} if name.endswith("webp") else {}))
    turned = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / name)).convert("RGB"))
    assert np.array_equal(read(tmp_path / name), turned)
    assert turned.shape[:2] == ((60, 40) if orientation >= 5 else (40, 60))


@pytest.mark.parametrize(
    "block", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 40]
)
def test_broken_exif_is_ignored(block: bytes, tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.jpg", exif=block)
    assert read(tmp_path / "a.jpg").shape == (40, 60, 3)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.fromarray(scene()), Image.fromarray(255 - scene())]
    for kind in ("png", "webp"):
        frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "webp" else {}))
        assert np.array_equal(read(tmp_path / f"a.{kind}"), scene())


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1)])
def test_thin_pictures(shape: tuple[int, int], tmp_path: Path) -> None:
    for kind in ("png", "jpg", "bmp"):
        Image.new("RGB", shape[::-1]).save(tmp_path / f"a.{kind}")
        assert read(tmp_path / f"a.{kind}").shape == (*shape, 3)


@pytest.mark.parametrize(("kind", "options"), [("jpg", {}), ("jpg", {"progressive": True}), ("png", {}), ("webp", {}), ("bmp", {})])
def test_cut_files_are_refused(kind: str, options: dict[str, bool], tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    Image.fromarray(scene(90, 120)).save(path, **options)
    whole = path.read_bytes()
    end = len(whole) - (24 if kind == "png" else 1)  # a PNG that lacks only checksums and end mark has all its pixels
    for length in np.linspace(1, end, 40).astype(int).tolist():
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"{path}: .*(damaged|truncated|not a picture)"):
            read_image(path)


OTHERS = {
    "web page": (b"<!DOCTYPE html><html><body>Not found</body></html>", "web page"),
    "page after blanks": (b"\n\n<html lang=en>", "web page"),
    "xml": (b'<?xml version="1.0"?><svg/>', "XML or SVG"),
    "text": (b"not found\n", "not a picture"),
    "pdf": (b"%PDF-1.7 ...", "a PDF"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
    "photoshop": (b"8BPS\0\1" + b"\0" * 40, "Photoshop"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
    "random": (bytes(range(7, 200)), "not a picture"),
    "zeros": (bytes(300), "not a picture"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_files_are_named(kind: str, tmp_path: Path) -> None:
    data, told = OTHERS[kind]
    (tmp_path / "a.jpg").write_bytes(data)
    for reader in (read_image, read_size):
        with pytest.raises(DataError, match=told) as caught:
            reader(tmp_path / "a.jpg")
        assert caught.value.where == str(tmp_path / "a.jpg")
        assert len(caught.value.lines) == 1


@pytest.mark.parametrize("kind", ["gif", "tiff"])
def test_kinds_outside_the_list_are_refused(kind: str, tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png", kind)
    with pytest.raises(DataError, match=rf"(?i)a {kind}"):
        read_image(tmp_path / "a.png")


def test_files_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    told = {
        "pipe": "regular",
        "empty": "0 bytes",
        "folder": "regular",
        "dangling": "not found",
        "loop": "cannot be read",
        "no": "not found",
    }
    for name, text in told.items():
        with pytest.raises(DataError, match=text):
            read_image(tmp_path / f"{name}.jpg")


def test_huge_pictures_are_refused_from_the_header(tmp_path: Path) -> None:
    """30,000 x 30,000 pixels of one colour are a small file and 2.7 GB of memory."""
    side = 30_000
    assert side * side > PIXEL_LIMIT
    (tmp_path / "a.png").write_bytes(_png(side, side, 8, 2, bytes(1000)))
    bitmap = io.BytesIO()
    Image.new("RGB", (1, 1)).save(bitmap, "bmp")
    header = bytearray(bitmap.getvalue())
    header[18:26] = struct.pack("<ii", side, side)
    (tmp_path / "a.bmp").write_bytes(header)
    for name in ("a.png", "a.bmp"):
        tracemalloc.start()
        with pytest.raises(DataError, match="more than 178956970 pixels"):
            read_image(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5_000_000
