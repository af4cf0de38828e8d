"""Every level and their context, inside and outside the box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from fusion_det.heads.roi_fusion.operators import make_operator, one_site
from fusion_det.heads.roi_levels import RoIPool
from fusion_det.layers import init_conv
from fusion_det.structures import FusionSite

# Against maps of zeros.
EPS = 1e-12


class Ion(nn.Module):
    """Inside-Outside Net's description of a box (Bell, Zitnick, Bala, Girshick; CVPR 2016, arXiv 1512.04143, sections 3.1 and 3.2).

    The box is pooled from every level and from the context map; each pooled map is divided by its L2 norm, scaled and joined. With the
    operator ``concat`` that is the paper's: concatenation, then 1x1. ``norm_over``: the channels at each position, or the whole pooled
    map (``blob``); the paper found them about equal, likewise a fixed or a learned scale. ``scale``: at the start, one per input and
    channel if ``learned``. ``context``: what makes the context map of the coarsest pooled level (``None``: no such input). ``channels``: a
    1x1 convolution per input to this width before they are joined; ``None``: none if all have one width, else to the coarsest level's. With
    it and the operator ``add`` the result is again the paper's, as a 1x1 of a concatenation is a sum of 1x1s.
    Deviations: RoIAlign, not RoI max pooling; no segmentation loss on the context. The paper's levels are VGG's conv3 to conv5.
    """

    linear_layers = 0

    def __init__(
        self,
        pool: RoIPool,
        *,
        fusion: Callable[..., Any],
        norm_over: Literal["channel", "blob"],
        scale: PositiveFloat,
        learned: bool,
        context: Callable[..., Any] | None,
        channels: PositiveInt | None,
    ) -> None:
        super().__init__()
        self.pool, self.bins, self.norm_dims = pool, pool.bins, (1,) if norm_over == "channel" else (1, 2, 3)
        deepest = pool.levels[-1]
        self.context = context(deepest.channels) if context is not None else None
        widths = [level.channels for level in pool.levels] + ([deepest.channels] if context is not None else [])
        if len(widths) < 2:
            raise ValueError(f"roi_fusion ion: joins two maps or more, got only {deepest.name}; give it more levels or a context")
        self.scales = nn.ParameterList(nn.Parameter(torch.full((width,), float(scale)), requires_grad=learned) for width in widths)
        if channels is None and len(set(widths)) > 1:
            channels = deepest.channels
        self.projections = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths if channels is not None)
        for conv in self.projections:
            assert isinstance(conv, nn.Conv2d)
            init_conv(conv)
        self.operator, self.out_channels = make_operator(fusion, channels or widths[0], len(widths))

    def forward(self, features: Sequence[Tensor], boxes: Tensor, index: Tensor) -> Tensor:
        """-> [B * R, C, bins, bins]; ``index`` has no effect, every level is pooled."""
        strides = [level.stride for level in self.pool.levels]
        maps = [features[i] for i in self.pool.chosen]
        if self.context is not None:
            maps, strides = [*maps, self.context(maps[-1])], [*strides, strides[-1]]
        pooled = [self.pool.single(x, boxes, stride) for x, stride in zip(maps, strides, strict=True)]
        pooled = [self._normalise(x, scale) for x, scale in zip(pooled, self.scales, strict=True)]
        if len(self.projections):
            pooled = [conv(x) for conv, x in zip(self.projections, pooled, strict=True)]
        return self.operator(pooled)

    def fusion_sites(self) -> list[FusionSite]:
        """Where the levels and the context are joined."""
        names = [level.name for level in self.pool.levels] + (["context"] if self.context is not None else [])
        return one_site("ion", self.pool.levels, names, self.operator)

    def _normalise(self, x: Tensor, scale: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x.float(), dim=self.norm_dims, keepdim=True).clamp(min=EPS)
        return (x.float() / norm * scale.view(1, -1, 1, 1)).to(x.dtype)
