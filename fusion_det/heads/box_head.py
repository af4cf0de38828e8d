"""From the map of a box to one vector."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from fusion_det.config.types import UnitInterval
from fusion_det.heads.vgg16_linears import load_vgg16_linears
from fusion_det.layers import NormKind, make_norm


class BoxHead(nn.Module):
    """``convs`` times 3x3 convolution, normalisation, ReLU, then ``linears`` times fully connected layer, ReLU.

    None and two of 1024: FPN's head (torchvision's ``fc6`` is ``linears.0``, ``fc7`` is ``linears.2``). Four and one with GroupNorm: Wu
    and He, *Group Normalization*, ECCV 2018, arXiv 1803.08494, section 4.2. ``done`` fully connected layers were applied before (PANet).
    ``dropout``: share of each fully connected layer's outputs that training drops (Fast R-CNN and ION 0.5, HyperNet 0.25).
    ``weights``: VGG16's fc6 and fc7 for the two fully connected layers (Fast R-CNN, ION), see ``vgg16_linears.py``; ``None``: they start
    as in Detectron2.
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
        dropout: UnitInterval = 0.0,
        weights: str | None = None,
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
            relu = nn.ReLU(inplace=True)
            # One slot with or without dropout, so that the linear layers keep their names.
            layers += [linear, nn.Sequential(relu, nn.Dropout(dropout)) if dropout else relu]
            self.out_features = width
        self.linears = nn.Sequential(*layers)
        if weights is not None:
            load_vgg16_linears(self.linears, weights)

    def forward(self, pooled: Tensor) -> Tensor:
        """[K, C, bins, bins] -> [K, out_features]."""
        return self.linears(self.convs(pooled).flatten(1))
