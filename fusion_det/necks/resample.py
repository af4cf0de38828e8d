"""How a map is brought to the size of the node that reads it: ``Resample(channels, from_stride, to_stride, *, options)``."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F


class Resize(nn.Module):
    """Parameter-free resizing to the reader's actual run-time size, so that odd sizes work.

    Up: ``nearest`` (FPN) or ``bilinear``. Down: adaptive ``max`` (Balanced FPN) or ``avg`` pooling.
    """

    def __init__(
        self,
        channels: int,
        from_stride: int,
        to_stride: int,
        *,
        up: Literal["nearest", "bilinear"] = "nearest",
        down: Literal["max", "avg"] = "max",
    ) -> None:
        super().__init__()
        self.enlarges = from_stride > to_stride
        self.up, self.down = up, down

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, C, H, W] -> [B, C, *size]."""
        if x.shape[-2:] == size:
            return x
        if not self.enlarges:
            return F.adaptive_max_pool2d(x, size) if self.down == "max" else F.adaptive_avg_pool2d(x, size)
        if self.up == "nearest":
            return F.interpolate(x, size=size, mode="nearest")
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
