"""The box and what lies around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from fusion_det.heads.roi_fusion.operators import make_operator, one_site, one_width
from fusion_det.heads.roi_levels import RoIPool
from fusion_det.layers import init_conv
from fusion_det.structures import FusionSite


class Context(nn.Module):
    """The box and the box enlarged about its centre, both from the level of the box (MS-CNN: Cai, Fan, Feris, Vasconcelos; ECCV 2016,
    arXiv 1607.07155, section 4.1), joined by the operator, the box itself first.

    ``scale``: side of the enlarged box in sides of the box (the authors' code: 1.5); it may reach out of the picture, as there.
    ``conv_width``: a 3x3 convolution without padding and ReLU follow (7 bins become 5); ``None``: none. The authors' "-c" models are
    ``fusion=stack`` (plain concatenation) with 512. Deviations: RoIAlign, not max pooling; theirs pools a deconvolved conv4 only.
    """

    linear_layers = 0

    def __init__(
        self,
        pool: RoIPool,
        *,
        fusion: Callable[..., Any],
        scale: Annotated[float, Field(gt=1)],
        conv_width: PositiveInt | None,
    ) -> None:
        super().__init__()
        self.pool, self.scale, self.bins, self.conv = pool, scale, pool.bins, None
        self.operator, self.out_channels = make_operator(fusion, one_width(pool.levels, owner="roi_fusion context"), 2)
        if conv_width is not None:
            if pool.bins < 3:
                raise ValueError(f"roi_fusion context: a 3x3 convolution without padding needs 3 bins or more, got {pool.bins}")
            self.conv = nn.Conv2d(self.out_channels, conv_width, 3)
            init_conv(self.conv)
            self.out_channels, self.bins = conv_width, pool.bins - 2

    def forward(self, features: Sequence[Tensor], boxes: Tensor, index: Tensor) -> Tensor:
        """-> [B * R, C, bins, bins]."""
        own = self.pool(features, boxes, index)
        joined = self.operator([own, self.pool(features, enlarge(boxes, self.scale), index)])
        return joined if self.conv is None else self.conv(joined).relu()

    def fusion_sites(self) -> list[FusionSite]:
        """Where the box and its surroundings are joined."""
        return one_site("context", self.pool.levels, ["box", "surroundings"], self.operator)


def enlarge(boxes: Tensor, scale: float) -> Tensor:
    """Boxes [..., 4] xyxy with ``scale`` times their sides about the same centres."""
    low, high = boxes[..., :2], boxes[..., 2:]
    margin = (high - low) * ((scale - 1) / 2)
    return torch.cat([low - margin, high + margin], dim=-1)
