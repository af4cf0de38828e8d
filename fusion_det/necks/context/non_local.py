"""Context by self-attention without positions."""

from __future__ import annotations

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F


class NonLocal(nn.Module):
    """Embedded-Gaussian non-local block (Wang et al., CVPR 2018, arXiv 1711.07971, Eq. 2): ``x + W softmax(q k) v``, unscaled.

    Balanced FPN refines its gathered map with it at ``reduction`` 1: four 1x1 convolutions with bias, 263,168 parameters at 256 channels.
    """

    def __init__(self, channels: int, out_channels: int | None = None, *, reduction: PositiveInt = 1) -> None:
        super().__init__()
        if out_channels not in (None, channels):
            raise ValueError(f"context NonLocal: keeps its {channels} channels, got {out_channels} to give")
        hidden = max(channels // reduction, 1)
        self.g, self.theta, self.phi = (nn.Conv2d(channels, hidden, kernel_size=1) for _ in range(3))
        self.conv_out = nn.Conv2d(hidden, channels, kernel_size=1)
        for conv in (self.g, self.theta, self.phi, self.conv_out):
            nn.init.xavier_uniform_(conv.weight)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        query, key, value = (conv(x).flatten(2).transpose(1, 2)[:, None] for conv in (self.theta, self.phi, self.g))
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0)[:, 0]
        return x + self.conv_out(mixed.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:]))
