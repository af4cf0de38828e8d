"""Attention from the own level to the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.errors import ConfigError
from fusion_det.fusion.operator import FusionOperator
from fusion_det.fusion.positions import sine_positions

PROBED_QUERIES = 64


class CrossAttention(FusionOperator):
    """``y = x_1 + W_o softmax(q k^T / sqrt(d)) v``: each position of the own level asks all positions of the other levels.

    Vaswani et al., NeurIPS 2017, arXiv 1706.03762, Eq. 1, as a pre-norm residual layer without a feed-forward part (the neck's block comes
    after); 2-D sine positions on queries and keys as in DETR (arXiv 2005.12872). Each input has a LayerNorm of its own, by whose bias the
    keys of different inputs can be told apart. No bias in the keys: the softmax does not see it.

    Work grows with (H W) x (N - 1)(H W) / pool^2: maps of more than ``max_tokens`` positions are refused, ``pool`` averages keys and values
    over pool x pool positions. ``scaled_dot_product_attention`` never stores the whole matrix and does its softmax in float32 under bf16.
    """

    def __init__(
        self,
        channels: int,
        num_inputs: int,
        *,
        heads: PositiveInt = 4,
        pool: PositiveInt = 1,
        positions: Literal["sine", "none"] = "sine",
        max_tokens: PositiveInt = 16384,
    ) -> None:
        super().__init__(channels, num_inputs)
        if channels % heads:
            raise ValueError(f"CrossAttention: {channels} channels cannot be split into {heads} heads; choose heads that divide them")
        if positions == "sine" and channels % 4:
            raise ValueError(f"CrossAttention: {channels} channels cannot be split into the 4 parts of sine positions; or positions=none")
        self.heads, self.pool, self.positions, self.max_tokens = heads, pool, positions, max_tokens
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(num_inputs))
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        own, *others = inputs
        height, width = own.shape[-2:]
        if height * width > self.max_tokens:
            raise ConfigError(
                f"cross-attention over maps of {height} x {width} = {height * width} positions, more than max_tokens={self.max_tokens}",
                where="fusion.max_tokens",
                mend="fuse at coarser strides, use smaller pictures, or raise fusion.max_tokens (fusion.pool=2 quarters the work)",
            )
        pooled = [F.avg_pool2d(x, self.pool, ceil_mode=True, count_include_pad=False) if self.pool > 1 else x for x in others]
        tokens = [norm(x.flatten(2).transpose(1, 2)) for norm, x in zip(self.norms, [own, *pooled], strict=True)]  # [B, T, C]
        query_at, key_at = self._positions(own, 1), self._positions(pooled[0], self.pool)
        query = self._split(self.query(tokens[0] + query_at))
        key = self._split(self.key(torch.cat([t + key_at for t in tokens[1:]], dim=1)))
        value = self._split(self.value(torch.cat(tokens[1:], dim=1)))
        attended = F.scaled_dot_product_attention(query, key, value)  # [B, heads, H W, C / heads]
        found = self.out(attended.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(2, (height, width))
        self.remember(query=query, key=key, own=own, found=found)
        return own + found

    def _split(self, tokens: Tensor) -> Tensor:
        """[B, T, C] -> [B, heads, T, C / heads]."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _positions(self, x: Tensor, step: int) -> Tensor | float:
        """[T, C] for the positions of ``x``, which are ``step`` query positions apart."""
        return sine_positions(x.shape[-2], x.shape[-1], self.channels, step, x.device) if self.positions == "sine" else 0.0

    def probe(self) -> dict[str, Tensor]:
        """``found`` [B, 1, H, W], the share of what was found in the result (mean absolute values), ``attention`` [B, N - 1, 1, 1], how
        much of it went to each other input, over at most 64 evenly spaced queries, and ``weights`` [B, N, H, W], shares of the result:
        what was not found for the own input, what was found times attention for the others.
        """
        if not self.remembered:
            return {}
        own, found = (self.remembered[name].abs().mean(dim=1, keepdim=True, dtype=torch.float32) for name in ("own", "found"))
        found = found / (own + found).clamp(min=1e-12)
        attention = self._probe_attention(self.remembered["query"], self.remembered["key"])
        return {"found": found, "attention": attention, "weights": torch.cat([1 - found, found * attention], dim=1)}

    def _probe_attention(self, query: Tensor, key: Tensor) -> Tensor:
        """Shares of the other inputs, [B, N - 1, 1, 1]."""
        if self.num_inputs == 2:
            return torch.ones(query.shape[0], 1, 1, 1, device=query.device)
        query = query[:, :, :: -(-query.shape[2] // PROBED_QUERIES)].float()
        attention = (query @ key.float().transpose(2, 3) / query.shape[3] ** 0.5).softmax(dim=3)
        return attention.unflatten(3, (self.num_inputs - 1, -1)).sum(dim=4).mean(dim=(1, 2))[:, :, None, None]
