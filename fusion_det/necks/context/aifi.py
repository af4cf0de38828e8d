"""Context by self-attention with positions."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.errors import ConfigError


class AIFI(nn.Module):
    """Intra-scale feature interaction of RT-DETR (Zhao et al., CVPR 2024, arXiv 2304.08069, section 4.2).

    One post-norm transformer encoder layer over all positions of the map, with fixed 2-D sine-cosine positions on queries and keys.
    Rows fill the first half of the channels. So ``positions="by_row"`` (default) is the authors' code on square maps, and transformers'
    (5.23) on all; ``reference`` is the authors' code also on other maps, where it lists positions column by column while the tokens run
    row by row, so that most tokens get another's. ``max_tokens`` bounds H * W.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: PositiveInt = 8,
        hidden: PositiveInt = 1024,
        layers: PositiveInt = 1,
        temperature: PositiveFloat = 10000.0,
        positions: Literal["by_row", "reference"] = "by_row",
        max_tokens: PositiveInt = 16384,
    ) -> None:
        super().__init__()
        if channels % heads or channels % 4:
            raise ValueError(f"context AIFI: expected channels that heads={heads} and 4 divide, got {channels}")
        self.layers = nn.ModuleList(_EncoderLayer(channels, heads, hidden) for _ in range(layers))
        self.temperature, self.positions, self.max_tokens = temperature, positions, max_tokens

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]; ``ConfigError`` for more than ``max_tokens`` positions."""
        batch, channels, height, width = x.shape
        if height * width > self.max_tokens:
            raise ConfigError(
                f"AIFI over maps of {height} x {width} = {height * width} positions, more than max_tokens={self.max_tokens}",
                where="neck.context.max_tokens",
                mend="use smaller pictures or raise neck.context.max_tokens",
            )
        tokens = x.flatten(2).transpose(1, 2)
        where = sine_positions(height, width, channels, self.temperature, by_row=self.positions == "by_row").to(tokens)
        for layer in self.layers:
            tokens = layer(tokens, where)
        return tokens.transpose(1, 2).reshape(batch, channels, height, width)


class _EncoderLayer(nn.Module):
    """Self-attention and a two-layer network, each with a shortcut and LayerNorm after it."""

    def __init__(self, channels: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Tokens [B, N, C] and positions [N, C] -> tokens [B, N, C]."""
        query = tokens + positions
        tokens = self.norm1(tokens + self.self_attn(query, query, tokens, need_weights=False)[0])
        return self.norm2(tokens + self.linear2(F.gelu(self.linear1(tokens))))


def sine_positions(height: int, width: int, channels: int, temperature: float = 10000.0, *, by_row: bool = True) -> Tensor:
    """[H * W, C]: sine and cosine of the row, then of the column, C / 4 frequencies each; tokens run row by row.

    Without ``by_row``: the order of RT-DETR's code, where token t is taken to lie in row t // H and column t % H.
    """
    token = torch.arange(height * width, dtype=torch.float32)
    length = width if by_row else height
    frequency = temperature ** (-torch.arange(channels // 4, dtype=torch.float32) / (channels // 4))
    angles = [(token // length)[:, None] * frequency, (token % length)[:, None] * frequency]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
