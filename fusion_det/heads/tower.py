"""The convolutions in front of a dense head's outputs, shared by all levels."""

from __future__ import annotations

from torch import Tensor, nn

from fusion_det.heads.dense import init_normal
from fusion_det.layers import NormKind, make_norm


class PerLevel(nn.ModuleList):
    """One module per level in the place of a shared one."""


class Tower(nn.ModuleList):
    """``num_convs`` times 3x3 convolution, normalisation, ReLU; normal initial weights (std 0.01) as in RetinaNet and FCOS.

    The convolutions serve all levels; with ``norm="bn"`` each level has a BatchNorm of its own, as in EfficientDet. A shared one would
    normalise each level by its own statistics in training, but in evaluation by a mixture of all levels', in which the coarsest, seen
    last, count most: with seven levels that cost 64 of 81 AP.
    A convolution before GroupNorm keeps its bias, as in the reference code and torchvision, so that their weights can be loaded.
    """

    def __init__(self, channels: int, num_convs: int, norm: NormKind, num_levels: int) -> None:
        super().__init__()
        for _ in range(num_convs):
            self.append(init_normal(nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=norm != "bn")))
            self.append(PerLevel(make_norm(norm, channels) for _ in range(num_levels)) if norm == "bn" else make_norm(norm, channels))
            self.append(nn.ReLU(inplace=True))

    def forward(self, x: Tensor, level: int) -> Tensor:
        """Map [B, C, H, W] of the level with that index -> [B, C, H, W]."""
        for layer in self:
            x = (layer[level] if isinstance(layer, PerLevel) else layer)(x)
        return x
