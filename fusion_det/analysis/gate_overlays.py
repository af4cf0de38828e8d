"""Where a node listens to which input: its weights as heat over a picture."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fusion_det.analysis.canvas import FAINT, INK, LINE, Canvas, colour_map, text_width
from fusion_det.analysis.fusion_report import FusionReport, SiteReport
from fusion_det.structures import ImageBatch

_MARGIN, _GAP, _SPACE, _HEAD = 14, 4, 22, 480
_SIZES = ((260, (1200, 900)), (200, (1200, 900)), (150, (1600, 1400)))
"""Longer side of a tile, and largest width and height of the sheet, in pixels (a node with very many inputs may be wider)."""
_HEAT = 0.7
"""Opacity of the heat over the grey picture."""
_LEAST_SPAN = 0.02
"""Weights of a node that differ by less are drawn almost in one colour: noise must not look like a decision."""


class _Block(NamedTuple):
    """One node: its weights on this picture [N, h, w], padding cut away, and where it stands on the sheet."""

    site: SiteReport
    weights: Tensor
    x: int = 0
    row: int = 0


def gate_overlays(report: FusionReport, index: int = 0) -> Tensor | None:
    """The weights of every node that decides per position, over picture ``index`` of the report: uint8 [3, H, W], or ``None``.

    One block per node with a tile per input. Colours (viridis) span the range of the node's weights on this picture, from low to high;
    each tile's own range is written under it. If not all nodes fit, those whose weights vary most over the picture are drawn.
    ``ValueError`` for a report without maps.
    """
    if report.images is None:
        raise ValueError("expected a report with maps, as fusion_probe gives it; that of a whole evaluation keeps means only")
    images = report.images
    found = [_Block(site, _cut(site.weights, images, index)) for site in report if site.weights is not None and _spatial(site)]
    if not found:
        return None
    height, width = (int(side) for side in images.sizes[index])
    tile, blocks = _lay_out(found, height / width)
    picture = images.pixels[index, :, :height, :width].float()
    small = F.interpolate(picture[None], tile, mode="bilinear", antialias=True, align_corners=False)[0]
    per_row, top = _heights(tile)
    sheet_width = max(_HEAD + tile[1], _MARGIN + max(block.x + _width(block, tile[1]) for block in blocks))
    canvas = Canvas(sheet_width, top + per_row * (1 + blocks[-1].row))
    _draw_head(canvas, small, f"picture {images.image_ids[index]}", len(blocks), len(found))
    grey = small.mean(0)
    grey = 110 + 0.8 * (grey - grey.mean())  # little contrast, so that bright things do not look like high weights
    for block in blocks:
        _draw_block(canvas, block, grey, top + block.row * per_row)
    return canvas.picture()


def _spatial(site: SiteReport) -> bool:
    """Whether its weights have places in the picture, as those of a neck; boxes' have not."""
    return not site.per_box and site.weights is not None and site.weights.shape[2] * site.weights.shape[3] > 1


def _cut(weights: Tensor, images: ImageBatch, index: int) -> Tensor:
    """The weights of one picture without the cells that lie in the padding alone: [N, h, w]."""
    own = weights[min(index, len(weights) - 1)]
    rows, columns = (-(-int(images.sizes[index, axis]) * own.shape[1 + axis] // images.pixels.shape[2 + axis]) for axis in (0, 1))
    return own[:, :rows, :columns]


def _lay_out(found: list[_Block], aspect: float) -> tuple[tuple[int, int], list[_Block]]:
    """Height and width of a tile, and the blocks in their places: large tiles if all blocks then fit onto one screen, else small ones."""
    for side, (width, height) in _SIZES:
        tile = (max(1, round(side * min(1.0, aspect))), max(1, round(side * min(1.0, 1 / aspect))))
        per_row, top = _heights(tile)
        blocks = _arrange(found, tile[1], width, rows=max(1, (height - top) // per_row))
        if len(blocks) == len(found):
            break
    return tile, blocks


def _heights(tile: tuple[int, int]) -> tuple[int, int]:
    """Of a row of blocks, and of the head above them."""
    return tile[0] + 2 * LINE + _SPACE, max(tile[0], 4 * LINE) + 2 * _MARGIN


def _arrange(found: list[_Block], tile: int, width: int, rows: int) -> list[_Block]:
    """Blocks in rows from the left, in the order of execution; if there are too many, those with the least variation are left out."""
    by_variation = sorted(range(len(found)), key=lambda number: float(found[number].weights.flatten(1).std(dim=1).max()))
    for hidden in range(len(found)):
        placed: list[_Block] = []
        x, row = _MARGIN, 0
        for number in sorted(by_variation[hidden:]):
            if x > _MARGIN and x + _width(found[number], tile) + _MARGIN > width:
                x, row = _MARGIN, row + 1
            placed.append(found[number]._replace(x=x, row=row))
            x += _width(found[number], tile) + _SPACE
        if row < rows:
            break
    return placed


def _width(block: _Block, tile: int) -> int:
    return len(block.weights) * (tile + _GAP) - _GAP


def _draw_head(canvas: Canvas, picture: Tensor, title: str, drawn: int, total: int) -> None:
    """The plain picture, what the sheet shows, and the colours."""
    canvas.paste(_MARGIN, _MARGIN, picture.round().clamp(0, 255).to(torch.uint8))
    x = _MARGIN + picture.shape[2] + _SPACE
    which = f"{total} nodes" if drawn == total else f"the {drawn} of {total} nodes with the most variation"
    canvas.text(x, _MARGIN, f"{title}: fusion weights by position, {which}")
    canvas.text(x, _MARGIN + LINE, "a tile per input, own first; under it mean and range of its weight", FAINT)
    canvas.text(x, _MARGIN + 2 * LINE, "colours span the range of the node:", FAINT)
    y = _MARGIN + 3 * LINE + 4
    end = canvas.text(x, y - 2, "low ")
    bar = colour_map(torch.linspace(0, 1, 140)[None].expand(14, -1)).to(torch.uint8)
    canvas.paste(round(end), y, bar)
    canvas.text(end + 144, y - 2, "high")


def _draw_block(canvas: Canvas, block: _Block, grey: Tensor, y: int) -> None:
    site, weights = block.site, block.weights
    room = _width(block, grey.shape[1])
    end = canvas.text(block.x, y, site.name, room=room)
    canvas.text(end + 8, y, f"stride {site.stride}, {site.operator}", FAINT, room=max(0.0, block.x + room - end - 8))
    low, high = float(weights.min()), float(weights.max())
    span = max(high - low, _LEAST_SPAN)
    for number, (name, weight) in enumerate(zip(site.inputs, weights, strict=True)):
        x = block.x + number * (grey.shape[1] + _GAP)
        heat = colour_map((weight - (high + low - span) / 2) / span)
        heat = F.interpolate(heat[None], grey.shape, mode="nearest-exact")[0]
        blended = _HEAT * heat + (1 - _HEAT) * grey
        canvas.paste(x, y + LINE, blended.round().clamp(0, 255).to(torch.uint8))
        caption = f"{name} {float(weight.mean()):.2f} "
        end = canvas.text(x, y + LINE + grey.shape[0] + 1, caption, INK, room=grey.shape[1])
        extent = f"{float(weight.min()):.2f}-{float(weight.max()):.2f}"
        if end + text_width(extent) <= x + grey.shape[1]:
            canvas.text(end, y + LINE + grey.shape[0] + 1, extent, FAINT)
