"""Projection that first weighs the channels."""

from __future__ import annotations

from torch import Tensor, nn

from fusion_det.layers import init_conv


class FeatureSelection(nn.Module):
    """``W (x + x * sigmoid(V mean(x)))``, W and V 1x1 convolutions without bias (FaPN: ICCV 2021, arXiv 2108.07058, Eq. 5)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.attention = nn.Conv2d(in_channels, in_channels, kernel_size=1, bias=False)
        self.project = nn.Conv2d(in_channels, channels, kernel_size=1, bias=False)
        for conv in (self.attention, self.project):
            init_conv(conv)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C, H, W]."""
        gate = self.attention(x.mean((2, 3), keepdim=True)).sigmoid()
        return self.project(x + x * gate)
