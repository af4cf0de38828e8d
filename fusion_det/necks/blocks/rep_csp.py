"""Cross-stage partial block of re-parameterisable convolutions."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.necks.conv import ConvUnit, activate


class RepConv(nn.Module):
    """A 3x3 and a 1x1 convolution with BatchNorm each, summed, then the activation (RepVGG, arXiv 2101.03697, without identity branch).

    :meth:`fold` turns both into one 3x3 convolution that gives the same numbers in evaluation mode.
    """

    def __init__(self, channels: int, activation: Literal["none", "relu", "silu", "leaky_relu"]) -> None:
        super().__init__()
        self.conv1 = ConvUnit(channels, channels, 3, norm="bn")
        self.conv2 = ConvUnit(channels, channels, 1, norm="bn")
        self.activation = activate(activation, inplace=True)
        self.folded: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return self.activation(self.conv1(x) + self.conv2(x) if self.folded is None else self.folded(x))

    @torch.no_grad()
    def fold(self) -> None:
        """Replace both branches by one convolution with bias; there is no way back, and no more training of the BatchNorms."""
        kernel, bias = _fold_norm(self.conv1)
        small_kernel, small_bias = _fold_norm(self.conv2)
        channels = kernel.shape[0]
        folded = nn.Conv2d(channels, channels, 3, padding=1).to(kernel)
        folded.weight.copy_(kernel + F.pad(small_kernel, [1, 1, 1, 1]))
        assert folded.bias is not None
        folded.bias.copy_(bias + small_bias)
        self.folded = folded
        del self.conv1, self.conv2


class RepCSP(nn.Module):
    """Two 1x1 paths, one through ``depth`` re-parameterisable convolutions, summed (CSPRepLayer of RT-DETR, arXiv 2304.08069).

    A third 1x1 convolution follows only where ``expansion`` is not 1 (0.5 in RT-DETR-R18 and R34).
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        depth: NonNegativeInt = 3,
        expansion: PositiveFloat = 1.0,
        activation: Literal["none", "relu", "silu", "leaky_relu"] = "silu",
    ) -> None:
        super().__init__()
        width = out_channels or channels
        hidden = max(int(width * expansion), 1)
        self.conv1 = ConvUnit(channels, hidden, 1, norm="bn", activation=activation)
        self.conv2 = ConvUnit(channels, hidden, 1, norm="bn", activation=activation)
        self.bottlenecks = nn.Sequential(*(RepConv(hidden, activation) for _ in range(depth)))
        self.conv3: nn.Module = nn.Identity() if hidden == width else ConvUnit(hidden, width, 1, norm="bn", activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C_out, H, W]."""
        return self.conv3(self.bottlenecks(self.conv1(x)) + self.conv2(x))

    def fold(self) -> None:
        """Fold every re-parameterisable convolution; call it in evaluation mode, before deployment."""
        for block in self.bottlenecks:
            assert isinstance(block, RepConv)
            block.fold()


def _fold_norm(unit: ConvUnit) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution that does what ``unit`` (convolution and BatchNorm) does in evaluation mode."""
    conv, norm = unit[0], unit[1]
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
