"""MS-CNN's detection features: a level at twice its size."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.layers import bilinear_window, full_precision
from fusion_det.structures import LevelSpec

EnlargeKind = Literal["fixed", "learned", "none"]
"""fixed: bilinear interpolation by a transposed convolution that is not trained. learned: started there. none: the level as it is."""


def enlarged_level(level: LevelSpec, kind: EnlargeKind) -> LevelSpec:
    """What :class:`EnlargedMap` makes of a level; a ``ValueError`` for a stride that has no half."""
    if kind == "none":
        return level
    if level.stride % 2:
        raise ValueError(f"head mscnn: enlarge halves the finest level's stride, expected an even one, got {level.name} /{level.stride}")
    return level._replace(stride=level.stride // 2)


class EnlargedMap(nn.Module):
    """Transposed convolution per channel, window 4, stride 2, of bilinear weights (MS-CNN, ECCV 2016, arXiv 1607.07155, section 4.1).

    The authors' code never trains the weights (``fixed``). As there, pixels beyond the border count as zero. Computed in float32, given in
    the map's type: in bf16 a CPU takes many times as long (torch 2.15: 130 against 9 ms).
    """

    weight: Tensor

    def __init__(self, channels: int, kind: EnlargeKind) -> None:
        super().__init__()
        self.kind = kind
        if kind != "none":
            weight = bilinear_window(2).expand(channels, 1, 4, 4).clone()
            if kind == "learned":
                self.weight = nn.Parameter(weight)
            else:
                self.register_buffer("weight", weight, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, 2 H, 2 W]."""
        if self.kind == "none":
            return x
        with full_precision(x):
            return F.conv_transpose2d(x.float(), self.weight.float(), stride=2, padding=1, groups=x.shape[1]).to(x.dtype)
