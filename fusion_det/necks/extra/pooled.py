"""Further levels by pooling, with 1x1 convolutions before it."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt
from torch import Tensor, nn

from fusion_det.necks.conv import ConvUnit
from fusion_det.necks.resample.pool import pool


class PooledLevels(nn.Module):
    """Each level is the one before, reduced by max-pooling; ``window`` as in :class:`fusion_det.necks.resample.pool.Pool`.

    ``cut`` is ``tile`` without the pixels left over at the border (rounds down: NAS-FPN in mmdetection, with sizes that 2 does not
    divide). ``source``: ``input`` starts from the backbone's deepest map, through a 1x1 convolution (EfficientDet's P6: with ``overlap``),
    ``output`` from the neck's coarsest map. ``project_each``: a 1x1 convolution before every pooling (NAS-FPN, with ``tile``).
    ``convolved``: how many levels, the finest first, go through a 3x3 convolution and ReLU after the pooling (MS-CNN's conv6_1).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        count: NonNegativeInt = 2,
        source: Literal["input", "output"] = "input",
        window: Literal["tile", "cut", "overlap", "same", "pixel"] = "overlap",
        project_each: bool = False,
        convolved: NonNegativeInt = 0,
        norm: Literal["none", "bn", "gn"] = "bn",
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        self.count, self.window, self.reads_output = count, window, source == "output"
        first = in_channels if source == "input" else channels
        projected = count if project_each else int(source == "input" and count > 0)
        self.projections = nn.ModuleList(ConvUnit(channels if i else first, channels, 1, norm=norm, bias=bias) for i in range(projected))
        self.convolutions = nn.ModuleList(ConvUnit(channels, channels, 3, activation="relu") for _ in range(min(convolved, count)))

    def forward(self, deepest_input: Tensor, coarsest: Tensor) -> list[Tensor]:
        """Deepest backbone map [B, C_in, H, W] and coarsest neck map [B, C, H, W] -> ``count`` maps [B, C, H/2^i, W/2^i]."""
        x = coarsest if self.reads_output else deepest_input
        maps: list[Tensor] = []
        for i in range(self.count):
            x = self.projections[i](x) if i < len(self.projections) else x
            x = pool(x, 2, "max", self.window)
            x = self.convolutions[i](x) if i < len(self.convolutions) else x
            maps.append(x)
        return maps
