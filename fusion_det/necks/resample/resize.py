"""Resizing by interpolation and adaptive pooling."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.necks.resample.enlarge import enlarge
from fusion_det.necks.resample.project import Project


class Resize(nn.Module):
    """Parameter-free resizing to the reader's actual run-time size, so that odd sizes work.

    Up: ``nearest`` (FPN), ``bilinear``, or ``nearest_if_whole``, which is bilinear where the sizes are not whole multiples (RT-DETR).
    Down: adaptive ``max`` (Balanced FPN) or ``avg`` pooling (HRFPN). A 1x1 convolution comes first only where the width changes.
    """

    def __init__(
        self,
        channels: int,
        from_stride: int,
        to_stride: int,
        out_channels: int | None = None,
        *,
        up: Literal["nearest", "bilinear", "nearest_if_whole"] = "nearest",
        down: Literal["max", "avg"] = "max",
    ) -> None:
        super().__init__()
        self.project = Project(channels, out_channels) if out_channels not in (None, channels) else None
        self.enlarges = from_stride > to_stride
        self.up, self.down = up, down
        self.commutes = self.enlarges and self.project is None
        """Whether a 1x1 convolution may come before as well as after: channels are interpolated alike, with weights that sum to 1."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, C, H, W] -> [B, C_out, *size]."""
        x = x if self.project is None else self.project(x)
        if x.shape[-2:] == size:
            return x
        if not self.enlarges:
            return F.adaptive_max_pool2d(x, size) if self.down == "max" else F.adaptive_avg_pool2d(x, size)
        if self.up == "nearest" or (self.up == "nearest_if_whole" and size[0] % x.shape[-2] == size[1] % x.shape[-1] == 0):
            return enlarge(x, size, "nearest")
        return enlarge(x, size, "bilinear")
