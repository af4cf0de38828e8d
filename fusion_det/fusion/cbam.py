"""A convolutional block attention gate per input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from fusion_det.fusion.gates import bottleneck, bottleneck_width, mean_weights
from fusion_det.fusion.operator import FusionOperator
from fusion_det.layers import NormKind, init_conv, make_norm


class ConvolutionalAttention(nn.Module):
    """CBAM: which channels, then where. ``mlp`` is shared by both poolings; 680 parameters at 64 channels, 4 hidden ones."""

    def __init__(self, channels: int, hidden: int, norm: NormKind) -> None:
        super().__init__()
        first, _, activation, last, _ = bottleneck(channels, hidden, channels, nn.Identity)
        self.mlp = nn.Sequential(first, activation, last)
        conv, spatial_norm = nn.Conv2d(2, 1, kernel_size=7, padding=3, bias=False), make_norm(norm, 1)
        init_conv(conv)
        if isinstance(spatial_norm, nn.BatchNorm2d):
            spatial_norm.momentum = 0.01
        self.spatial = nn.Sequential(conv, spatial_norm)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] -> channel gate [B, C, 1, 1] and spatial gate [B, 1, H, W]; the second sees the map after the first."""
        channel = torch.sigmoid(self.mlp(x.mean((2, 3), keepdim=True)) + self.mlp(x.amax((2, 3), keepdim=True)))
        gated = x * channel
        spatial = torch.sigmoid(self.spatial(torch.cat([gated.amax(1, keepdim=True), gated.mean(1, keepdim=True)], dim=1)))
        return channel, spatial


class CBAM(FusionOperator):
    """``y = sum_i s_i (c_i x_i)``: each input gates its channels (c_i), then its positions (s_i), then they are added.

    Woo, Park, Lee and Kweon, ECCV 2018, arXiv 1807.06521, Eq. 2-3; channel order [max, mean], biases, and BatchNorm (momentum 0.01) after
    the 7x7 convolution as in the authors' code. The paper's Eq. 3 has no norm: ``norm=none``. Deviations: the paper gates one map, here
    every input has gates of its own, so the sum at the start is about a quarter of ``add``; at least ``minimum_width``
    hidden channels (1 for the authors' width); mirrored initial weights (:func:`init_mirrored`).
    """

    def __init__(
        self, channels: int, num_inputs: int, *, reduction: PositiveInt = 16, minimum_width: PositiveInt = 4, norm: NormKind = "bn"
    ) -> None:
        super().__init__(channels, num_inputs)
        hidden = bottleneck_width(channels, reduction, minimum_width)
        self.gates = nn.ModuleList(ConvolutionalAttention(channels, hidden, norm) for _ in range(num_inputs))

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        pairs = [gate(x) for gate, x in zip(self.gates, inputs, strict=True)]
        self.remember(**{f"{name}{i}": gate for i, pair in enumerate(pairs) for name, gate in zip("cs", pair, strict=True)})
        gated = [x * channel * spatial for x, (channel, spatial) in zip(inputs, pairs, strict=True)]
        return sum(gated[1:], start=gated[0])

    def probe(self) -> dict[str, Tensor]:
        """``weights`` [B, N, H, W], and its factors ``channel`` [B, N, 1, 1] (mean over channels) and ``spatial`` [B, N, H, W]."""
        if not self.remembered:
            return {}
        channel, spatial = (mean_weights([self.remembered[f"{name}{i}"] for i in range(self.num_inputs)]) for name in "cs")
        return {"weights": channel * spatial, "channel": channel, "spatial": spatial}
