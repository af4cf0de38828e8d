"""Width changes and last corrections of size that several resamplers share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.layers import init_conv


class Project(nn.Conv2d):
    """1x1 convolution for an edge whose two ends differ in width; takes and ignores the size, so that it also serves as a resampler."""

    def __init__(self, channels: int, out_channels: int | None) -> None:
        super().__init__(channels, out_channels or channels, kernel_size=1)
        init_conv(self)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """[B, C, H, W] -> [B, C_out, H, W]."""
        return super().forward(x)


def match_size(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut a map that is too large at its right and lower border; stretch one that is too small (nearest).

    Learned resamplers change sizes by whole factors, while backbones round odd sizes up or down; the difference is one row or column.
    """
    height, width = x.shape[-2:]
    if height < size[0] or width < size[1]:
        return F.interpolate(x, size=size, mode="nearest")
    return x[..., : size[0], : size[1]] if (height, width) != size else x


def factor(name: str, from_stride: int, to_stride: int, *, enlarges: bool) -> int:
    """The whole factor between the strides; ``ValueError`` if the resampler ``name`` works in the other direction."""
    if (from_stride > to_stride) is not enlarges:
        does, other = ("enlarges", "down") if enlarges else ("reduces", "up")
        raise ValueError(
            f"resample {name}: only {does} maps, got stride {from_stride} -> {to_stride}; "
            f"put it beside a '{other}' part in fusion_det.necks.resample.up_down.up_down"
        )
    return max(from_stride, to_stride) // min(from_stride, to_stride)
