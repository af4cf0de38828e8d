"""Multi-scale channel attention, and the operator that lets each input gate itself by it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from fusion_det.fusion.gates import (
    PooledStatistics,
    bottleneck,
    bottleneck_width,
    by_input,
    gated_sum,
    make_pooled_norm,
    remembered_weights,
)
from fusion_det.fusion.operator import FusionOperator
from fusion_det.layers import NormKind, make_norm


class MultiScaleAttention(nn.Module):
    """MS-CAM's gate ``sigmoid(L(x) + g(x))``: a bottleneck at every position plus one on the global mean.

    Dai, Gieseke, Oehmcke, Wu and Barnard, WACV 2021, arXiv 2009.14082, Eq. 1-3. ``local_att`` and ``global_att`` have the layers and
    names of the authors' PyTorch code (convolutions with biases, also before BatchNorm), so its weights load as they are; 4,576 parameters
    at 64 channels, 16 hidden ones. Without ``local`` the gate is global only, as in SE; without ``pooled`` it borrows a global branch.

    BatchNorm of the global branch refuses batch 1 and knows only a sign at batch 2. ``statistics="running"`` normalises it by running
    statistics in training, too; ``"batch"`` is the paper's. Both are equal in evaluation. ``norm="gn"`` needs neither.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        norm: NormKind,
        statistics: PooledStatistics,
        *,
        in_channels: int | None = None,
        local: bool = True,
        pooled: bool = True,
    ) -> None:
        super().__init__()
        in_channels = in_channels or channels
        self.global_att: nn.Module | None = None
        if pooled:
            layers = bottleneck(in_channels, hidden, channels, lambda width: make_pooled_norm(norm, width, statistics))
            self.global_att = nn.Sequential(nn.AdaptiveAvgPool2d(1), *layers)
        self.local_att: nn.Module | None = None
        if local:
            self.local_att = nn.Sequential(*bottleneck(in_channels, hidden, channels, lambda width: make_norm(norm, width)))

    def forward(self, x: Tensor, global_att: nn.Module | None = None) -> Tensor:
        """[B, C_in, H, W] -> gate [B, C, H, W], or [B, C, 1, 1] without the local branch; ``global_att`` stands in for a missing branch."""
        branch = self.global_att or global_att
        if branch is None:
            raise ValueError("MultiScaleAttention: built without a global branch, so forward() needs one")
        logits = _of_mean(branch, x)
        if self.local_att is None:
            return torch.sigmoid(logits.to(x.dtype))
        local = self.local_att(x)
        return local.add_(logits.to(local.dtype)).sigmoid_()  # in place: nothing before needs what it overwrites


def _of_mean(branch: nn.Module, x: Tensor) -> Tensor:
    """``branch``, whose first layer pools [B, C, H, W] to one value, in float32 under autocast, too.

    Means vary little from picture to picture: BatchNorm enlarges what varies, and bfloat16's rounding with it (0.4 AP of AFF on scenes).
    """
    if not torch.amp.is_autocast_available(x.device.type) or not torch.is_autocast_enabled(x.device.type):  # none on meta
        return branch(x)
    with torch.autocast(x.device.type, enabled=False):
        pooled = x.mean((2, 3), keepdim=True, dtype=torch.float32)
        for layer in list(branch.children())[1:]:
            pooled = layer(pooled)
        return pooled


class MSCAM(FusionOperator):
    """``y = sum_i M_i(x_i) x_i``: each input gates itself by multi-scale channel attention, then they are added.

    Dai et al., WACV 2021, arXiv 2009.14082, Eq. 3 with the *self gate* of an SE block; ``attentions.i`` holds MS-CAM's layers. Deviations:
    every input has a gate of its own, so the sum at the start is about half of ``add``; at least ``minimum_width`` hidden channels (1 for
    the authors' widths); mirrored initial weights; see :class:`MultiScaleAttention` on ``statistics``.
    """

    def __init__(
        self,
        channels: int,
        num_inputs: int,
        *,
        reduction: PositiveInt = 4,
        minimum_width: PositiveInt = 4,
        norm: NormKind = "bn",
        statistics: PooledStatistics = "running",
    ) -> None:
        super().__init__(channels, num_inputs)
        hidden = bottleneck_width(channels, reduction, minimum_width)
        self.attentions = nn.ModuleList(MultiScaleAttention(channels, hidden, norm, statistics) for _ in range(num_inputs))

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        gates = [attention(x) for attention, x in zip(self.attentions, inputs, strict=True)]
        self.remember(**by_input(gates))
        return gated_sum(inputs, gates)

    def probe(self) -> dict[str, Tensor]:
        """``weights`` [B, N, H, W]."""
        return remembered_weights(self.remembered)
