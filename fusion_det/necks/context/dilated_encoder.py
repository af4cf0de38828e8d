"""Context by dilated residual blocks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from fusion_det.necks.conv import ConvUnit


class DilatedEncoder(nn.Sequential):
    """Encoder of YOLOF (Chen et al., CVPR 2021, arXiv 2103.09460, Fig. 5): 3x3 convolution, then residual blocks of growing dilation.

    Each block is 1x1 to ``expansion`` x channels, dilated 3x3, 1x1 back, all with BatchNorm and ReLU, plus its input. The paper's first
    1x1 convolution with BatchNorm is the entry here (``neck.entry.norm=bn``). ``bias`` of the convolutions in the blocks: ``None``
    leaves it out, as BatchNorm follows (mmdetection); the authors' code has it.
    """

    def __init__(
        self,
        channels: int,
        *,
        expansion: PositiveFloat = 0.25,
        dilations: Annotated[list[PositiveInt], Field(min_length=1)] = [2, 4, 6, 8],  # noqa: B006 - read only
        bias: bool | None = None,
    ) -> None:
        hidden = max(int(channels * expansion), 1)
        first = ConvUnit(channels, channels, 3, norm="bn", bias=True)
        super().__init__(first, *(_DilatedBlock(channels, hidden, dilation, bias) for dilation in dilations))


class _DilatedBlock(nn.Module):
    def __init__(self, channels: int, hidden: int, dilation: int, bias: bool | None) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            ConvUnit(channels, hidden, 1, norm="bn", activation="relu", bias=bias),
            ConvUnit(hidden, hidden, 3, dilation=dilation, norm="bn", activation="relu", bias=bias),
            ConvUnit(hidden, channels, 1, norm="bn", activation="relu", bias=bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return x + self.convs(x)
