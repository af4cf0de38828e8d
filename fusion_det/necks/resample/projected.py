"""Resizing with a convolution of its own for every edge, as in ASFF and AFPN."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.layers import init_conv, make_norm
from fusion_det.necks.conv import ConvUnit, activate
from fusion_det.necks.resample.enlarge import enlarge
from fusion_det.necks.resample.project import factor, match_size


class ProjectedUp(nn.Module):
    """1x1 convolution with normalisation and activation, then interpolation (ASFF: nearest; AFPN: bilinear).

    ``project="if_needed"``: a convolution only where the width changes, as in ASFF's code.
    """

    def __init__(
        self,
        channels: int,
        from_stride: int,
        to_stride: int,
        out_channels: int | None = None,
        *,
        mode: Literal["nearest", "bilinear"] = "nearest",
        norm: Literal["none", "bn", "gn"] = "bn",
        activation: Literal["none", "relu", "silu", "leaky_relu"] = "relu",
        project: Literal["always", "if_needed"] = "always",
    ) -> None:
        super().__init__()
        factor("ProjectedUp", from_stride, to_stride, enlarges=True)
        self.mode, width = mode, out_channels or channels
        self.project: nn.Module = nn.Identity()
        if project == "always" or width != channels:
            self.project = ConvUnit(channels, width, 1, norm=norm, activation=activation)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, C, H, W] -> [B, C_out, *size]."""
        return enlarge(self.project(x), size, self.mode)


class PatchConv(nn.Module):
    """r x r convolution of stride r with normalisation and activation (AFPN, arXiv 2306.15988).

    ``shifted``: the authors' code pads by (r - 1) // 2 although it asks for none, which moves the sampling grid by up to half a
    cell; false: patches that tile the map. Sizes that r does not divide are padded at the right and below.
    """

    def __init__(
        self,
        channels: int,
        from_stride: int,
        to_stride: int,
        out_channels: int | None = None,
        *,
        norm: Literal["none", "bn", "gn"] = "bn",
        activation: Literal["none", "relu", "silu", "leaky_relu"] = "relu",
        shifted: bool = True,
    ) -> None:
        super().__init__()
        r = factor("PatchConv", from_stride, to_stride, enlarges=False)
        width = out_channels or channels
        self.conv = nn.Conv2d(channels, width, r, stride=r, padding=(r - 1) // 2 if shifted else 0, bias=norm == "none")
        init_conv(self.conv)
        self.norm, self.activation = make_norm(norm, width), activate(activation, inplace=True)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, C, H, W] -> [B, C_out, *size]."""
        r, padding = self.conv.stride[0], int(self.conv.padding[0])
        missing = [max((wanted - 1) * r + r - 2 * padding - have, 0) for wanted, have in zip(size, x.shape[-2:], strict=True)]
        x = F.pad(x, (0, missing[1], 0, missing[0]))
        return match_size(self.activation(self.norm(self.conv(x))), size)
