"""Further levels as SSD makes them."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from fusion_det.errors import ConfigError
from fusion_det.necks.conv import ConvUnit


class SsdExtras(nn.Module):
    """Per level a 1x1 convolution to half the width and a 3x3 one of stride 2, ReLU after both (Liu et al., ECCV 2016, Fig. 2).

    ``widths``: channels of each level; SSD300 has [512, 256, 256, 256], ``None`` takes the neck's. ``unpadded``: how many of the last
    levels use a 3x3 convolution without stride and padding instead (SSD300: 2, 5 -> 3 -> 1 pixels); their strides then only say
    "about twice". ``last_kernel``: 4 makes the last level by a 4x4 convolution of stride 1 and padding 1 (SSD512: 2 -> 1 pixels). Starts
    from the backbone's deepest map, which needs no entry (the paper's fc7).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        count: NonNegativeInt = 4,
        widths: list[PositiveInt] | None = None,
        unpadded: NonNegativeInt = 0,
        last_kernel: Literal[3, 4] = 3,
    ) -> None:
        super().__init__()
        self.last_kernel = last_kernel
        self.count, self.unpadded, self.reads_output = count, max(unpadded, int(last_kernel == 4 and count > 0)), False
        self.widths = list(widths or [channels] * count)
        if len(self.widths) != count or unpadded > count:
            raise ValueError(f"extra SsdExtras: expected {count} widths and at most {count} unpadded, got {self.widths} and {unpadded}")
        self.stages = nn.ModuleList()
        before = in_channels
        for i, width in enumerate(self.widths):
            half = max(width // 2, 1)
            if i == count - 1 and last_kernel == 4:
                last: nn.Module = nn.Sequential(nn.Conv2d(half, width, 4, padding=1), nn.ReLU(inplace=True))
            elif i < count - unpadded:
                last = ConvUnit(half, width, 3, stride=2, activation="relu")
            else:
                last = nn.Sequential(nn.Conv2d(half, width, 3), nn.ReLU(inplace=True))
            self.stages.append(nn.Sequential(ConvUnit(before, half, 1, activation="relu"), last))
            before = width

    def forward(self, deepest_input: Tensor, coarsest: Tensor) -> list[Tensor]:
        """Deepest backbone map [B, C_in, H, W] -> ``count`` maps [B, widths[i], H/2^i, W/2^i]; the second argument is not read.

        ``ConfigError`` for maps that are too small for the last, unpadded levels.
        """
        maps: list[Tensor] = []
        x = deepest_input
        for i, stage in enumerate(self.stages):
            height, width = x.shape[-2:]
            if i >= self.count - self.unpadded and min(height, width) < 2 + (i < self.count - 1 or self.last_kernel == 3):
                raise ConfigError(
                    f"level {i + 1} of {self.count} has no padding and shrinks its map, which has {height} x {width} already",
                    where="neck.extra",
                    mend="larger pictures (data.image_size), or a smaller neck.extra.unpadded or neck.extra.count",
                )
            x = stage(x)
            maps.append(x)
        return maps
