"""Enlarging with alignment to the finer map."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from fusion_det.layers import full_precision, init_conv, make_norm
from fusion_det.necks.resample.deformable import modulated_deform_conv
from fusion_det.necks.resample.enlarge import enlarge
from fusion_det.necks.resample.project import Project, factor


class Aligned(nn.Module):
    """Feature alignment of FaPN (Huang et al., ICCV 2021, arXiv 2108.07058, Eq. 2-3).

    The coarse map is enlarged bilinearly; a 1x1 convolution of [own, 2 x enlarged] says where a modulated deformable 3x3 convolution
    samples it; ReLU follows. The factor 2 is in the authors' code only. ``groups``: deformable groups. ``norm`` after
    the 1x1 convolution: theirs follows ``FPN.NORM``, which their detectors leave empty.
    """

    needs_own = True

    def __init__(
        self,
        channels: int,
        from_stride: int,
        to_stride: int,
        out_channels: int | None = None,
        *,
        groups: PositiveInt = 8,
        norm: Literal["none", "bn", "gn"] = "none",
    ) -> None:
        super().__init__()
        factor("Aligned", from_stride, to_stride, enlarges=True)
        width = out_channels or channels
        if width % groups:
            raise ValueError(f"resample Aligned: expected channels that its groups={groups} divide, got {width}")
        self.groups = groups
        self.project = Project(channels, width) if width != channels else None
        self.offset = nn.Conv2d(2 * width, width, kernel_size=1, bias=False)
        self.offset_norm = make_norm(norm, width)
        self.conv_offset_mask = nn.Conv2d(width, groups * 27, kernel_size=3, padding=1)
        self.deform = nn.Conv2d(width, width, kernel_size=3, padding=1)
        for conv in (self.offset, self.deform):
            init_conv(conv)
        nn.init.zeros_(self.conv_offset_mask.weight)  # sampling starts as that of a plain convolution
        assert self.conv_offset_mask.bias is not None
        nn.init.zeros_(self.conv_offset_mask.bias)

    def forward(self, x: Tensor, size: tuple[int, int], own: Tensor) -> Tensor:
        """Coarse map [B, C, H, W] and own map [B, C_out, *size] -> aligned map [B, C_out, *size]."""
        x = x if self.project is None else self.project(x)
        x = enlarge(x, size, "bilinear")
        found = self.conv_offset_mask(self.offset_norm(self.offset(torch.cat([own, 2 * x], dim=1))))
        with full_precision(x):  # sampling positions need more than eight bits
            rows, columns, mask = found.float().chunk(3, dim=1)
            offset = torch.cat([rows, columns], dim=1)
            weight, bias = self.deform.weight.float(), self.deform.bias
            assert bias is not None
            aligned = modulated_deform_conv(x.float(), offset, mask.sigmoid(), weight, bias.float())
        return aligned.to(x.dtype).relu()
