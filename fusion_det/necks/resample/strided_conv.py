"""Reducing by strided convolutions."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from fusion_det.necks.conv import ConvUnit, separable
from fusion_det.necks.resample.project import factor, match_size


class StridedConv(nn.Module):
    """3x3 convolutions of stride 2, one per halving (PANet, RT-DETR, YOLOX).

    With ``pool_first`` all halvings but the last are 3x3 max-poolings of stride 2 (ASFF, arXiv 1911.09516, for a factor of 4).
    ``depthwise``: separable convolutions (YOLOX-Nano), in the order convolution, norm, activation and without ``bias`` only.
    ``bias`` of the convolutions: ``None`` only without norm (PANet's authors have one before GroupNorm).
    """

    def __init__(
        self,
        channels: int,
        from_stride: int,
        to_stride: int,
        out_channels: int | None = None,
        *,
        norm: Literal["none", "bn", "gn"] = "none",
        activation: Literal["none", "relu", "silu", "leaky_relu"] = "none",
        order: Literal["conv_norm_act", "act_conv_norm"] = "conv_norm_act",
        pool_first: bool = False,
        depthwise: bool = False,
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        halvings = factor("StridedConv", from_stride, to_stride, enlarges=False).bit_length() - 1
        if depthwise and (order != "conv_norm_act" or bias is not None):
            raise ValueError(f"resample StridedConv: depthwise expects order=conv_norm_act and bias=null, got {order} and {bias}")
        steps: list[nn.Module] = []
        for i in range(halvings):
            last = i == halvings - 1
            if pool_first and not last:
                steps.append(nn.MaxPool2d(3, stride=2, padding=1))
            else:
                width = (out_channels or channels) if last else channels
                if depthwise:
                    steps.append(separable(channels, width, 3, stride=2, norm=norm, activation=activation))
                else:
                    steps.append(ConvUnit(channels, width, 3, stride=2, norm=norm, activation=activation, order=order, bias=bias))
        self.steps = nn.Sequential(*steps)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, C, H, W] -> [B, C_out, *size]."""
        return match_size(self.steps(x), size)
