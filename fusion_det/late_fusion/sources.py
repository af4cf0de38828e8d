"""Pictures seen in other ways, and their candidates brought back: what test-time augmentation gives to late fusion."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fusion_det.structures import ImageBatch, RawDetections


def mirrored(images: ImageBatch) -> ImageBatch:
    """Each picture turned left to right where it lies; the padding to its right stays."""
    columns = torch.arange(images.pixels.shape[3], device=images.pixels.device)
    width = images.sizes[:, 1:]  # [B, 1]
    source = torch.where(columns < width, width - 1 - columns, columns)  # [B, W]
    return replace(images, pixels=images.pixels.gather(3, source[:, None, None].expand_as(images.pixels)))


def mirrored_back(found: RawDetections, images: ImageBatch) -> RawDetections:
    """Candidates of mirrored pictures, turned right again; ``images`` tell the pictures' widths."""
    left, top, right, bottom = found.boxes.unbind(-1)
    width = images.sizes[:, 1:].to(found.boxes.dtype)  # [B, 1]
    return replace(found, boxes=torch.stack([width - right, top, width - left, bottom], dim=-1))


def moved(found: RawDetections, given: ImageBatch, wanted: ImageBatch) -> RawDetections:
    """Candidates of ``given`` in the network frame of ``wanted``: the same pictures at another size."""
    if given is wanted:
        return found
    factor = (wanted.scales / given.scales).repeat(1, 2)[:, None]
    limits = wanted.sizes.flip(1).repeat(1, 2)[:, None].to(found.boxes.dtype)
    return replace(found, boxes=torch.minimum((found.boxes * factor).clamp(min=0), limits))


def renumbered(found: RawDetections, levels: Tensor) -> RawDetections:
    """Candidates whose level i is now called ``levels[i]``: detectors with different pyramids need one list of levels."""
    return replace(found, levels=levels[found.levels])
