"""A small residual network for CPUs and quick studies."""

from __future__ import annotations

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.structures import LevelSpec

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut (He et al., CVPR 2016, arXiv 1512.03385, Fig. 5 left).

    The shortcut halves by average pooling before its 1x1 convolution (ResNet-D, arXiv 1812.01187): no activation is thrown away.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            # Pooling also keeps clear of oneDNN's strided 1x1 convolution, whose NHWC backward writes out of bounds for fewer than 16
            # input channels (seen in torch 2.15: crashes). ceil_mode: odd sizes halve as in the 3x3 convolution.
            pool = nn.AvgPool2d(stride, ceil_mode=True) if stride != 1 else nn.Identity()
            self.shortcut = nn.Sequential(pool, nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x), inplace=True)


class TinyNet(nn.Module):
    """Stem of stride 2, then one stage per stride 4, 8, 16, ... of ``widths`` and ``depths``; gives the levels from ``first_stride`` on.

    No pre-training exists for it; it is meant for the generated scenes and for trying things out.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(
        self,
        *,
        stem_width: PositiveInt,
        widths: list[PositiveInt],
        depths: list[PositiveInt],
        first_stride: PositiveInt,
    ) -> None:
        super().__init__()
        if len(widths) != len(depths):
            raise ValueError(f"backbone tiny: widths {widths} and depths {depths} differ in length")
        self.stem = nn.Sequential(nn.Conv2d(3, stem_width, 3, 2, 1, bias=False), nn.BatchNorm2d(stem_width), nn.ReLU(inplace=True))
        self.stages = nn.ModuleList()
        levels, channels = [], stem_width
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = [BasicBlock(channels if i == 0 else width, width, 2 if i == 0 else 1) for i in range(depth)]
            self.stages.append(nn.Sequential(*blocks))
            levels.append(LevelSpec(f"C{index + 2}", width, 4 << index))
            channels = width
        self.levels = tuple(level for level in levels if level.stride >= first_stride)
        if not self.levels or self.levels[0].stride != first_stride:
            raise ValueError(f"backbone tiny: first_stride {first_stride} is not among its strides {[level.stride for level in levels]}")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised pictures [B, 3, H, W] -> one map per level, fine to coarse."""
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[-len(self.levels) :]
