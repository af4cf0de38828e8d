"""A convolution between the backbone and a low branch."""

from __future__ import annotations

from pydantic import PositiveFloat
from torch import nn


class BufferConv(nn.Sequential):
    """3x3 convolution and ReLU (MS-CNN, ECCV 2016, arXiv 1607.07155, section 3.2): it keeps the strong gradient of the finest branch
    away from the backbone. Weights start as in the authors' prototxt, normal with ``std`` 0.01."""

    def __init__(self, in_channels: int, channels: int, *, std: PositiveFloat = 0.01) -> None:
        conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        nn.init.normal_(conv.weight, std=std)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        super().__init__(conv, nn.ReLU(inplace=True))
