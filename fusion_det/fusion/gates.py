"""What gates share: bottlenecks that start alive, a norm for pooled maps, and the sum of gated inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.layers import NormKind, init_conv

PooledStatistics = Literal["running", "batch"]
"""What BatchNorm on a pooled 1x1 map normalises with in training, see :class:`RunningNorm`."""


def bottleneck_width(channels: int, reduction: int, minimum: int) -> int:
    """``channels // reduction`` as in the reference codes, but at least ``minimum``, so that narrow maps keep a working gate."""
    return max(channels // reduction, minimum)


def init_mirrored(conv: nn.Conv2d) -> None:
    """Initial weights for a layer before a ReLU: rows in pairs ``w, -w``, zero bias.

    Whatever the input, one of each pair passes the ReLU. A gate that sees one pooled vector per image would otherwise
    start dead, without any gradient, as soon as its few hidden units happened to be negative together.
    """
    init_conv(conv)
    half = conv.out_channels // 2
    with torch.no_grad():
        conv.weight[half : 2 * half] = -conv.weight[:half]


_NOT_PASSED = 31 / 32
"""Of the gradient common to all images, a number that bfloat16 has. The rest lets a bias before the norm have a gradient of its own."""


class RunningNorm(nn.BatchNorm2d):
    """BatchNorm that normalises with its running statistics in training, too; same parameters and buffers, equal in evaluation.

    Batch statistics of a pooled map rest on one value per image: none at batch 1 (torch refuses it), only a sign at batch 2. Running
    ones work at every batch size and make training and evaluation the same function. They follow each batch before they are used.

    Gradients, from batch 2 on, are those of the differences between images, as in BatchNorm: a part common to all images would push a
    mean that the statistics then follow, for ever. (With it, AFF's means drifted by 10 deviations between weights and averaged weights.)
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self._follow(x.detach().to(self.running_mean.dtype))
            if len(x) > 1:
                mean = x.mean((0, 2, 3), keepdim=True)
                x = x - _NOT_PASSED * (mean - mean.detach())  # x as it is; its gradient loses what moves all values alike
        # copies: the next pass updates the buffers in place, perhaps before this one's backward
        mean, var = self.running_mean.clone(), self.running_var.clone()
        return F.batch_norm(x, mean, var, self.weight, self.bias, training=False, eps=self.eps)

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        momentum = 0.1 if self.momentum is None else self.momentum
        offset = x - self.running_mean[:, None, None]
        self.running_mean.lerp_(x.mean((0, 2, 3)), momentum)
        # spread around the old mean, shrunk by what the mean moves: exact for one value at a time
        self.running_var.lerp_((1 - momentum) * offset.square().mean((0, 2, 3)), momentum)
        self.num_batches_tracked += 1


def bottleneck(in_channels: int, hidden: int, channels: int, make_norm: Callable[[int], nn.Module]) -> list[nn.Module]:
    """1x1 convolution, norm, ReLU, 1x1 convolution, norm; convolutions with biases, as the gates' authors have them."""
    first, last = nn.Conv2d(in_channels, hidden, kernel_size=1), nn.Conv2d(hidden, channels, kernel_size=1)
    init_mirrored(first)
    init_conv(last)
    return [first, make_norm(hidden), nn.ReLU(inplace=True), last, make_norm(channels)]


def make_pooled_norm(kind: NormKind, channels: int, statistics: PooledStatistics) -> nn.Module:
    """The normalisation of a pooled map [B, C, 1, 1]: none, BatchNorm, or GroupNorm of one group (of one value it would give 0)."""
    if kind == "none":
        return nn.Identity()
    if kind == "gn":
        return nn.GroupNorm(1, channels)
    if kind == "bn":
        return RunningNorm(channels) if statistics == "running" else nn.BatchNorm2d(channels)
    raise ValueError(f"norm: expected 'none', 'bn' or 'gn', got {kind!r}")


def gated_sum(inputs: Sequence[Tensor], gates: Sequence[Tensor]) -> Tensor:
    """``sum_i gates[i] * inputs[i]`` in the inputs' type; gates broadcast to [B, C, H, W]."""
    total = inputs[0] * gates[0].to(inputs[0].dtype)
    for x, gate in zip(inputs[1:], gates[1:], strict=True):
        total = total + x * gate.to(x.dtype)
    return total


def mean_weights(gates: Sequence[Tensor]) -> Tensor:
    """Gates [B, C or 1, h, w] of N inputs -> their means over channels [B, N, h, w], float32."""
    return torch.stack(torch.broadcast_tensors(*(gate.mean(dim=1, dtype=torch.float32) for gate in gates)), dim=1)


def by_input(gates: Sequence[Tensor]) -> dict[str, Tensor]:
    """Names for the gates of N inputs, to be remembered as they are."""
    return {str(i): gate for i, gate in enumerate(gates)}


def remembered_weights(remembered: dict[str, Tensor]) -> dict[str, Tensor]:
    """What :func:`by_input` kept as ``weights`` [B, N, h, w]; nothing before the first pass."""
    return {"weights": mean_weights(list(remembered.values()))} if remembered else {}
