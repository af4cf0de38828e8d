"""Small layers that necks, operators and heads share."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NormKind = Literal["none", "bn", "gn"]
ActivationKind = Literal["none", "relu", "silu"]


def make_norm(kind: NormKind, channels: int) -> nn.Module:
    """The normalisation layer for ``channels`` maps: nothing, BatchNorm, or GroupNorm of 32 groups (fewer if 32 does not divide)."""
    if kind == "none":
        return nn.Identity()
    if kind == "bn":
        return nn.BatchNorm2d(channels)
    if kind == "gn":
        groups = next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0)
        return nn.GroupNorm(groups, channels)
    raise ValueError(f"norm: expected 'none', 'bn' or 'gn', got {kind!r}")


def make_activation(kind: ActivationKind) -> nn.Module:
    """The activation of that name, in place where torch allows it."""
    if kind == "none":
        return nn.Identity()
    if kind == "relu":
        return nn.ReLU(inplace=True)
    if kind == "silu":
        return nn.SiLU(inplace=True)
    raise ValueError(f"activation: expected 'none', 'relu' or 'silu', got {kind!r}")


class StridedConv2d(nn.Conv2d):
    """A convolution whose stride is 1 along sides of one pixel: the same result, for "same" padding, without a fault of CPU kernels.

    oneDNN (seen in torch 2.15, bf16) leaves the weights' gradient of a strided convolution over a map of 1x1 pixels, or of one column if
    it is depthwise, unset: whatever the memory held, often infinite. Small pictures with many levels come to such maps.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, ceil(H / stride), ceil(W / stride)]."""
        stride = [1 if size == 1 else step for size, step in zip(input.shape[-2:], self.stride, strict=True)]
        return F.conv2d(input, self.weight, self.bias, stride, self.padding, self.dilation, self.groups)


class ConvNormAct(nn.Sequential):
    """Convolution, normalisation, activation; the convolution has a bias only where no normalisation follows.

    Weights start as in FPN's reference code (uniform, variance 1/fan_in), biases at zero.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        norm: NormKind = "none",
        activation: ActivationKind = "none",
    ) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=norm == "none")
        init_conv(conv)
        super().__init__(conv, make_norm(norm, out_channels), make_activation(activation))


class LearnedScale(nn.Module):
    """Multiplies by one learned number (FCOS, section 3.2: one per level, so that a shared head fits all of them)."""

    def __init__(self, initial: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def init_conv(conv: nn.Conv2d) -> None:
    """FPN's initial weights: kaiming uniform with a = 1, zero bias (detectron2 and torchvision do the same)."""
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def bilinear_window(factor: int) -> Tensor:
    """[2r, 2r], r = ``factor``: the weights with which a transposed convolution of stride r interpolates between two pixels."""
    tent = 1 - (torch.arange(2 * factor) - (factor - 0.5)).abs() / factor
    return tent[:, None] * tent[None, :]


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """No autocast for work on ``x``; the meta device, where parts are tried out before a run, knows none anyway."""
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
