"""What dense one-stage heads share: towers, flattening, and the choice of candidates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fusion_det.layers import NormKind, make_norm
from fusion_det.structures import RawDetections


def make_tower(channels: int, num_convs: int, norm: NormKind) -> nn.Sequential:
    """``num_convs`` times 3x3 convolution, normalisation, ReLU; normal initial weights (std 0.01) as in RetinaNet and FCOS.

    A convolution before GroupNorm keeps its bias, as in the reference code and torchvision, so that their weights can be loaded.
    """
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=norm != "bn")
        init_normal(conv)
        layers += [conv, make_norm(norm, channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def init_normal(conv: nn.Conv2d, bias: float = 0.0) -> nn.Conv2d:
    """Normal weights (std 0.01), constant bias."""
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.constant_(conv.bias, bias)
    return conv


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """Maps [B, K, H_i, W_i] of all levels -> [B, sum of H_i * W_i, K], row-major, level after level."""
    return torch.cat([m.permute(0, 2, 3, 1).flatten(1, 2) for m in maps], dim=1)


def choose_candidates(
    boxes: Tensor, scores: Tensor, counts: Sequence[int], sizes: Tensor, *, score_threshold: float, per_level: int
) -> RawDetections:
    """The best ``per_level`` (point, class) pairs of each level, as padded tensors without any host sync.

    ``boxes`` [B, P, 4] xyxy in the network frame, ``scores`` [B, P, C], ``counts``: points per level (their sum is P),
    ``sizes`` [B, 2] (h, w) to clip to.
    """
    classes = scores.shape[2]
    parts, start = [], 0
    for level, count in enumerate(counts):
        flat = scores[:, start : start + count].flatten(1)  # [B, count * C]
        top, index = flat.topk(min(per_level, flat.shape[1]), dim=1)
        points = start + index // classes
        parts.append((boxes.gather(1, points[..., None].expand(-1, -1, 4)), top, index % classes, torch.full_like(points, level)))
        start += count
    chosen, top, labels, fired = (torch.cat(column, dim=1) for column in zip(*parts, strict=True))
    limits = sizes.flip(1).repeat(1, 2)[:, None].to(chosen.dtype)
    return RawDetections(torch.minimum(chosen.clamp(min=0), limits), top, labels, fired, top > score_threshold)
