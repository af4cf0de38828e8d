"""Context by parallel dilated convolutions."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from fusion_det.necks.conv import ConvUnit


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling as DetectoRS uses it (Qiao et al., CVPR 2021, arXiv 2006.02334, Fig. 4).

    A 1x1 convolution, two dilated 3x3 ones and a 1x1 one of the map's mean, a quarter of the channels and ReLU each, concatenated.
    """

    def __init__(
        self,
        channels: int,
        *,
        dilations: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] = [3, 6],  # noqa: B006 - read only
    ) -> None:
        super().__init__()
        if channels % 4:
            raise ValueError(f"context ASPP: expected channels that its 4 branches divide, got {channels}")
        quarter = channels // 4
        local = [ConvUnit(channels, quarter, 1, activation="relu")]
        local += [ConvUnit(channels, quarter, 3, dilation=dilation, activation="relu") for dilation in dilations]
        self.local = nn.ModuleList(local)
        self.whole = ConvUnit(channels, quarter, 1, activation="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        whole = self.whole(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        return torch.cat([*(branch(x) for branch in self.local), whole], dim=1)
