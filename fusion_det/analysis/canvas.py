"""A white sheet with texts and colours, for pictures of numbers; Pillow only."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from fusion_det.visualize import load_font

Colour = tuple[int, int, int]
INK: Colour = (20, 20, 20)
FAINT: Colour = (105, 105, 105)
ALARM: Colour = (178, 24, 43)
TEXT_SIZE = 13
LINE = 18
"""Height of a line of text, in pixels."""
# Ten samples of viridis (Smith and van der Walt, CC0): rising lightness, told apart with every colour blindness.
_VIRIDIS = (
    *((68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142)),
    *((31, 158, 137), (53, 183, 121), (109, 205, 89), (180, 222, 44), (253, 231, 37)),
)


class Canvas:
    """A sheet of ``width`` x ``height`` pixels, written on from the top left."""

    def __init__(self, width: int, height: int) -> None:
        self.sheet = Image.new("RGB", (width, height), (255, 255, 255))
        self.draw = ImageDraw.Draw(self.sheet)
        self.font = load_font(TEXT_SIZE)

    def text(self, x: float, y: float, text: str, colour: Colour = INK, *, room: float | None = None) -> float:
        """Write one line, cut short with a sign to fit into ``room``; the x where it ends."""
        text = text if room is None else shorten(text, room)
        self.draw.text((x, y), text, fill=colour, font=self.font)
        return x + text_width(text)

    def text_right(self, x: float, y: float, text: str, colour: Colour = INK) -> None:
        """Write one line that ends at ``x``."""
        self.text(x - text_width(text), y, text, colour)

    def box(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        """A filled rectangle."""
        self.draw.rectangle((round(x), round(y), round(x + width) - 1, round(y + height) - 1), fill=colour)

    def frame(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        """The outline of a rectangle."""
        self.draw.rectangle((round(x), round(y), round(x + width) - 1, round(y + height) - 1), outline=colour)

    def paste(self, x: int, y: int, picture: Tensor) -> None:
        """A uint8 [3, H, W] picture with its top left at (x, y)."""
        self.sheet.paste(Image.fromarray(picture.movedim(0, 2).contiguous().numpy()), (x, y))

    def picture(self) -> Tensor:
        """The sheet as uint8 [3, H, W]."""
        return pil_to_tensor(self.sheet)


def text_width(text: str) -> float:
    """Width of one line in pixels."""
    return load_font(TEXT_SIZE).getlength(text)


def shorten(text: str, room: float) -> str:
    """``text``, or as much of its start as fits into ``room`` pixels together with an ellipsis."""
    if text_width(text) <= room:
        return text
    while text and text_width(text + "...") > room:
        text = text[:-1]
    return text + "..."


def colour_map(values: Tensor) -> Tensor:
    """Values in 0..1, [h, w] -> viridis colours, float32 [3, h, w] in 0..255."""
    anchors = np.linspace(0, 1, len(_VIRIDIS))
    flat = values.double().clamp(0, 1).numpy()
    return torch.from_numpy(np.stack([np.interp(flat, anchors, channel) for channel in zip(*_VIRIDIS, strict=True)])).float()
