"""Enlarging by transposed convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusion_det.layers import bilinear_window
from fusion_det.necks.resample.project import factor, match_size


class Deconv(nn.Module):
    """Transposed convolution by the factor r: window 2r, stride r, weights started at bilinear interpolation (FCN, HyperNet).

    ``depthwise``: a window per channel in place of a dense one. ``learned=False`` keeps the bilinear weights (MS-CNN's deconvolution
    has learning rate 0), which are then no parameters.
    """

    def __init__(
        self,
        channels: int,
        from_stride: int,
        to_stride: int,
        out_channels: int | None = None,
        *,
        depthwise: bool = False,
        learned: bool = True,
    ) -> None:
        super().__init__()
        r = factor("Deconv", from_stride, to_stride, enlarges=True)
        width = out_channels or channels
        if depthwise and width != channels:
            raise ValueError(f"resample Deconv: depthwise keeps the width, got {channels} -> {width} channels; set depthwise=false")
        groups = channels if depthwise else 1
        self.deconv = nn.ConvTranspose2d(channels, width, 2 * r, stride=r, padding=r // 2, groups=groups, bias=False)
        with torch.no_grad():
            self.deconv.weight.copy_(_bilinear_weight(channels, width // groups, r, depthwise=depthwise))
        if not learned:
            weight = self.deconv.weight.detach()
            del self.deconv.weight
            self.deconv.register_buffer("weight", weight)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, C, H, W] -> [B, C_out, *size]."""
        return match_size(self.deconv(x), size)


def _bilinear_weight(channels: int, out_channels: int, r: int, *, depthwise: bool) -> Tensor:
    """[C, C_out, 2r, 2r]: a tent for each channel onto itself (dense: channel i to channel i modulo C_out, nothing across)."""
    weight = torch.zeros(channels, out_channels, 2 * r, 2 * r)
    targets = torch.zeros(channels, dtype=torch.long) if depthwise else torch.arange(channels) % out_channels
    weight[torch.arange(channels), targets] = bilinear_window(r)
    return weight
