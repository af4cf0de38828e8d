"""Global attention upsampling as the Pyramid Attention Network has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from fusion_det.fusion.fold import Fold, GatedPair
from fusion_det.fusion.gates import PooledStatistics, make_pooled_norm
from fusion_det.fusion.operator import FusionOperator
from fusion_det.layers import NormKind, init_conv, make_activation, make_norm


class UpsamplingPair(GatedPair):
    """``z = a(g f(x) + y)``: f a 3x3 convolution with norm, g from the global mean of y."""

    def __init__(self, own: nn.Sequential, context: nn.Sequential, last: nn.Module) -> None:
        super().__init__()
        self.own, self.context, self.last = own, context, last
        for part in (own[0], context[1]):
            assert isinstance(part, nn.Conv2d)
            init_conv(part)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two maps [B, C, H, W] -> one."""
        gate = self.context(y)
        self.keep(gate)
        return self.last(gate * self.own(x) + y)

    def factors(self, gate: Tensor) -> tuple[Tensor, Tensor]:
        return gate, torch.ones_like(gate)


class PanGAU(FusionOperator):
    """``z = g(y) f(x) + y``: f a 3x3 convolution of the own level, g one factor per channel from the other level's global mean.

    Li, Xiong, An and Wang, *Pyramid Attention Network*, BMVC 2018, arXiv 1805.10180, Sec. 3.2 (x low, y high level): g is a 1x1
    convolution with norm and a nonlinearity that the paper does not name. The defaults are those of segmentation_models.pytorch (sigmoid,
    ReLU after f, biases); other codes have ``gate=relu``, ``own_relu=false``, ``bias=false`` and ``last_relu=true``. ``gau`` is the
    simpler modulation of the AFF paper. N inputs: folded, :mod:`fusion_det.fusion.fold`. Deviations: enlarging y, and taking it to the
    width of x, is the neck's; BatchNorm of the pooled map by running statistics unless ``statistics=batch``.
    """

    def __init__(
        self,
        channels: int,
        num_inputs: int,
        *,
        gate: Literal["sigmoid", "relu"] = "sigmoid",
        own_relu: bool = True,
        last_relu: bool = False,
        bias: bool = True,
        norm: NormKind = "bn",
        statistics: PooledStatistics = "running",
    ) -> None:
        super().__init__(channels, num_inputs)

        def pair() -> UpsamplingPair:
            conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=bias)
            own = nn.Sequential(conv, make_norm(norm, channels), make_activation("relu" if own_relu else "none"))
            pointwise = nn.Conv2d(channels, channels, kernel_size=1, bias=bias)
            activation = nn.Sigmoid() if gate == "sigmoid" else make_activation("relu")
            context = nn.Sequential(nn.AdaptiveAvgPool2d(1), pointwise, make_pooled_norm(norm, channels, statistics), activation)
            return UpsamplingPair(own, context, make_activation("relu" if last_relu else "none"))

        self.fold = Fold(pair, num_inputs)

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.fold(inputs)

    def probe(self) -> dict[str, Tensor]:
        """``weights`` [B, N, 1, 1], the factor on each input, for the own one after its convolution; that of the last input is always 1."""
        return self.fold.weights()
