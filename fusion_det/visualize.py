"""Pictures with boxes, for the log and for people. All pictures are uint8 [3, H, W] RGB tensors on the CPU."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes

from fusion_det.config.files import write_atomic

# Okabe and Ito's eight colours without black (told apart with every common colour blindness), then Paul Tol's muted ones.
PALETTE = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)),
    *((51, 34, 136), (136, 204, 238), (153, 153, 51), (136, 34, 85), (221, 204, 119), (68, 170, 153), (170, 68, 153)),
)
CROWD_COLOR = (150, 150, 150)
_LEGIBLE_SIZE = 320
_LARGEST_FACTOR = 10
_PAPER = 255


def draw_boxes(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    scores: Tensor | None = None,
    *,
    crowd: Tensor | None = None,
    colors: Sequence[tuple[int, int, int]] = PALETTE,
) -> Tensor:
    """``image`` (uint8 [3, H, W]) with ``boxes`` ([N, 4] xyxy in its pixels), each with its class name and score.

    ``labels`` [N] index ``class_names``; class ``c`` has ``colors[c % len(colors)]``; boxes marked in ``crowd`` (bool [N]) are grey.
    A picture whose longer side is under 320 pixels is enlarged by a whole factor, so that text can be read. Boxes that are not
    finite are left out: a drawing must not stop a training run.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"expected a uint8 [3, H, W] picture, got {image.dtype} {list(image.shape)}")
    if len(labels) != len(boxes) or (scores is not None and len(scores) != len(boxes)) or (crowd is not None and len(crowd) != len(boxes)):
        raise ValueError(f"expected labels, scores and crowd flags for {len(boxes)} boxes")
    factor = max(1, min(_LARGEST_FACTOR, math.ceil(_LEGIBLE_SIZE / max(image.shape[1:]))))
    picture = image.cpu().repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
    order = _drawing_order(boxes, scores)
    if not len(order):
        return picture
    height, width = picture.shape[1:]
    corners = (boxes.detach().cpu().double()[order] * factor).round().clamp(min=0)
    corners = torch.minimum(corners, corners.new_tensor([width - 1, height - 1]).repeat(2))
    # A box with swapped corners is drawn where it is meant, for it is a fault that should be seen.
    corners = torch.cat([torch.minimum(corners[:, :2], corners[:, 2:]), torch.maximum(corners[:, :2], corners[:, 2:])], dim=1)
    crowded = [crowd is not None and bool(crowd[i]) for i in order]
    outlines = [CROWD_COLOR if grey else colors[int(labels[i]) % len(colors)] for i, grey in zip(order, crowded, strict=True)]
    texts = [
        _text(class_names, int(labels[i]), None if scores is None else float(scores[i]), c) for i, c in zip(order, crowded, strict=True)
    ]
    line_width = 2 if min(height, width) >= _LEGIBLE_SIZE // 2 else 1
    return _with_texts(draw_bounding_boxes(picture, corners, colors=outlines, width=line_width), corners.tolist(), texts, outlines)


def grid(pictures: Sequence[Tensor], *, columns: int | None = None, gap: int = 4) -> Tensor:
    """All pictures in rows of ``columns`` (default: nearly square), each at the top left of a cell as large as the largest."""
    if not pictures:
        raise ValueError("expected at least one picture, got none")
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    height = max(picture.shape[1] for picture in pictures)
    width = max(picture.shape[2] for picture in pictures)
    sheet = torch.full(
        (3, math.ceil(len(pictures) / columns) * (height + gap) + gap, columns * (width + gap) + gap), _PAPER, dtype=torch.uint8
    )
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        sheet[:, top : top + picture.shape[1], left : left + picture.shape[2]] = picture.cpu()
    return sheet


def side_by_side(ground_truth: Tensor, predictions: Tensor, *, captions: tuple[str, str] = ("ground truth", "predictions")) -> Tensor:
    """Two pictures of the same image next to each other, each under its caption."""
    return grid([_captioned(ground_truth, captions[0]), _captioned(predictions, captions[1])], columns=2)


def save_png(path: str | Path, picture: Tensor) -> None:
    """Write a uint8 [3, H, W] picture as PNG, whole or not at all. Raises ``OSError`` as the system gives it."""
    buffer = io.BytesIO()
    to_pil_image(picture.cpu()).save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue())


def _drawing_order(boxes: Tensor, scores: Tensor | None) -> list[int]:
    """Indices of the boxes that can be drawn; the surest comes last and so lies on top."""
    finite = torch.isfinite(boxes).all(dim=1).nonzero().flatten().tolist() if len(boxes) else []
    return finite if scores is None else sorted(finite, key=lambda index: float(scores[index]))


def _text(class_names: Sequence[str], label: int, score: float | None, crowd: bool) -> str:
    name = class_names[label] if 0 <= label < len(class_names) else f"class {label}"
    name = "".join(character if character.isprintable() else "?" for character in name)
    return name + (" (crowd)" if crowd else "") + ("" if score is None else f" {score:.2f}")


def ink_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """The colour of a text on ``color``: black on light ones, white on dark ones."""
    red, green, blue = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def _with_texts(picture: Tensor, corners: list[list[float]], texts: list[str], colors: list[tuple[int, int, int]]) -> Tensor:
    """``picture`` with each text above its box, or inside at the top edge of the picture: a label must not hide a small object."""
    sheet = to_pil_image(picture)
    draw = ImageDraw.Draw(sheet)
    font = load_font(max(12, min(20, min(sheet.size) // 30)))
    for (x, y, *_), text, color in zip(corners, texts, colors, strict=True):
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        width, height = right - left + 4, bottom - top + 4
        x, y = max(0, min(x, sheet.width - width)), y - height if y >= height else y
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
        draw.text((x + 2 - left, y + 2 - top), text, fill=ink_on(color), font=font)
    return pil_to_tensor(sheet)


@functools.cache
def load_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, about ``size`` pixels high."""
    try:
        return ImageFont.load_default(size)
    except TypeError:  # before Pillow 10.1
        return ImageFont.load_default()


def _captioned(picture: Tensor, caption: str) -> Tensor:
    sheet = to_pil_image(pad(picture.cpu(), (0, 0, 20, 0), value=_PAPER))
    ImageDraw.Draw(sheet).text((4, 2), caption, fill=(0, 0, 0), font=load_font(14))
    return pil_to_tensor(sheet)
