"""Pictures, objects and candidates made up for measurements, the same ones for the same arguments."""

from __future__ import annotations

import torch
from torch import Tensor

from fusion_det.rehearsal import Size
from fusion_det.structures import ImageBatch, RawDetections, Targets


def random_batch(count: int, size: Size, objects: int, num_classes: int) -> tuple[ImageBatch, Targets]:
    """``count`` pictures of noise, each with ``objects`` objects whose sides are 5 to 45 % of the picture's."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=generator)
    boxes = _boxes((count, objects), size, generator)
    labels = torch.randint(0, num_classes, (count, objects), generator=generator)
    sizes = torch.tensor([size] * count)
    images = ImageBatch(pixels, sizes, torch.ones(count, 2), sizes, tuple(range(count)))
    return images, Targets(boxes, labels, torch.ones_like(labels, dtype=torch.bool), torch.zeros_like(labels, dtype=torch.bool))


def random_candidates(count: int, candidates: int, size: Size, *, objects: int, num_classes: int, levels: int) -> RawDetections:
    """What a trained head may give of ``count`` pictures: ``candidates`` boxes, scattered around ``objects`` objects, with falling scores.

    An untrained head gives few candidates over its threshold or all of them, which says nothing about the time of late fusion.
    """
    generator = torch.Generator().manual_seed(0)
    centres = _boxes((count, objects), size, generator)
    kinds = torch.randint(0, num_classes, (count, objects), generator=generator)
    member = torch.randint(0, objects, (count, candidates), generator=generator)
    boxes = centres.gather(1, member[..., None].expand(-1, -1, 4))
    sides = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2)
    boxes = boxes + 0.2 * sides * (torch.rand(boxes.shape, generator=generator) - 0.5)
    limits = torch.tensor([size[1], size[0]] * 2)
    return RawDetections(
        boxes=torch.minimum(boxes.clamp(min=0), limits),
        scores=torch.rand(count, candidates, generator=generator).mul(0.95).add(0.05),
        labels=kinds.gather(1, member),
        levels=torch.randint(0, levels, (count, candidates), generator=generator),
        valid=torch.ones(count, candidates, dtype=torch.bool),
    )


def _boxes(shape: tuple[int, int], size: Size, generator: torch.Generator) -> Tensor:
    """float32 [*shape, 4] xyxy inside pictures of ``size``."""
    extent = torch.tensor([size[1], size[0]], dtype=torch.float32)
    sides = extent * (0.05 + 0.4 * torch.rand(*shape, 2, generator=generator))
    start = (extent - sides) * torch.rand(*shape, 2, generator=generator)
    return torch.cat([start, start + sides], dim=-1)
