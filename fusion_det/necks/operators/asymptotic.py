"""The spatial softmax of AFPN."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt
from torch import nn

from fusion_det.fusion.spatial_softmax import SpatialSoftmax


class AsymptoticSoftmax(SpatialSoftmax):
    """ASFF's choice per position with 8 channels per input and ReLU before it, as AFPN's code has it (Yang et al., arXiv 2306.15988)."""

    def __init__(self, channels: int, num_inputs: int, *, width: PositiveInt = 8, norm: Literal["none", "bn", "gn"] = "bn") -> None:
        super().__init__(channels, num_inputs, width=width, norm=norm)
        for part in self.compress:
            assert isinstance(part, nn.Sequential)
            part[-1] = nn.ReLU(inplace=True)
