"""A detector without training and files, for the tests of this folder: pooled pixels as features, any operator in an FPN."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from fusion_det.detector import Detector
from fusion_det.necks.blocks import Conv3x3
from fusion_det.necks.entry import Projection
from fusion_det.necks.extra import ExtraLevels
from fusion_det.necks.fusion_neck import FusionNeck
from fusion_det.necks.resample import Resize
from fusion_det.necks.topologies.fpn import fpn
from fusion_det.structures import ImageBatch, LevelSpec

LEVELS = [LevelSpec("C3", 3, 8), LevelSpec("C4", 3, 16), LevelSpec("C5", 3, 32)]


class PooledPixels(nn.Module):
    """The pictures themselves at strides 8, 16 and 32."""

    def forward(self, pixels):
        return [F.avg_pool2d(pixels, level.stride) for level in LEVELS]


def make_detector(operator, topology=fpn, **parts):
    torch.manual_seed(0)
    parts = {"entry": Projection, "resample": Resize, "extra": ExtraLevels, "channels": 8} | parts
    neck = FusionNeck(LEVELS, operator, Conv3x3, topology=topology, **parts)
    return Detector(PooledPixels(), neck, nn.Identity(), lambda raw: raw, mean=[0.0] * 3, std=[64.0] * 3)


def make_images(*sizes, height=64, width=96):
    """One noisy picture per (height, width) in ``sizes``, padded to ``height`` x ``width``."""
    count = len(sizes)
    pixels = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    shapes = torch.tensor(sizes)
    for picture, (rows, columns) in zip(pixels, sizes, strict=True):
        picture[:, rows:], picture[:, :, columns:] = 0, 0
    return ImageBatch(pixels, shapes, torch.ones(count, 2), shapes, tuple(range(count)))
