"""From the map of a box to one vector."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from fusion_det.layers import NormKind, make_norm


class BoxHead(nn.Module):
    """``convs`` times 3x3 convolution, normalisation, ReLU, then ``linears`` times fully connected layer, ReLU.

    None and two of 1024: FPN's head (torchvision's ``fc6`` is ``linears.0``, ``fc7`` is ``linears.2``). Four and one with GroupNorm: Wu
    and He, *Group Normalization*, ECCV 2018, arXiv 1803.08494, section 4.2. ``done`` fully connected layers were applied before (PANet).
    Weights start as in Detectron2.
    """

    def __init__(
        self,
        channels: int,
        bins: int,
        done: int,
        *,
        convs: NonNegativeInt,
        conv_width: PositiveInt,
        norm: NormKind,
        linears: NonNegativeInt,
        width: PositiveInt,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(convs):
            conv = nn.Conv2d(channels, conv_width, 3, padding=1, bias=norm == "none")
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            layers += [conv, make_norm(norm, conv_width), nn.ReLU(inplace=True)]
            channels = conv_width
        self.convs, self.out_features = nn.Sequential(*layers), channels * bins * bins
        layers = []
        for _ in range(max(0, linears - done)):
            linear = nn.Linear(self.out_features, width)
            nn.init.kaiming_uniform_(linear.weight, a=1)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.ReLU(inplace=True)]
            self.out_features = width
        self.linears = nn.Sequential(*layers)

    def forward(self, pooled: Tensor) -> Tensor:
        """[K, C, bins, bins] -> [K, out_features]."""
        return self.linears(self.convs(pooled).flatten(1))
