"""A random choice of positives and negatives per image, with as many slots for every image: no index list, so no wait for the host."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Sample(NamedTuple):
    """S slots of each image."""

    column: Tensor
    """int64 [B, S]: which anchor or box."""
    chosen: Tensor
    """bool [B, S]: false where there were too few; their column is any."""


@torch.no_grad()
def sample(positive: Tensor, negative: Tensor, *, size: int, positive_share: float, first: Tensor | None = None) -> Sample:
    """``size`` columns of each image at random: at most the share ``positive_share`` positive, the rest negative (Fast R-CNN, section 2.3).

    ``positive`` and ``negative`` bool [B, A], no column in both. Missing positives are made up for by negatives, missing negatives by
    nothing, as in torchvision. ``first`` bool [B, A]: negatives that are taken before all others. Random numbers come from torch's global
    generator, whose state a checkpoint holds.
    """
    columns = positive.shape[1]
    most = min(int(size * positive_share), columns)
    keys = torch.rand(positive.shape, device=positive.device)
    key, found = torch.where(positive, keys, -1.0).topk(most, dim=1)
    taken = key >= 0
    other_keys = keys if first is None else keys + first
    other_key, other = torch.where(negative, other_keys, -1.0).topk(min(size, columns), dim=1)
    room = size - taken.sum(dim=1, keepdim=True)
    other_taken = (other_key >= 0) & (torch.arange(other.shape[1], device=other.device) < room)
    index, chosen = torch.cat([found, other], dim=1), torch.cat([taken, other_taken], dim=1)
    # Never more than `size` are chosen: bring those to the front and cut the rest off.
    chosen, order = chosen.to(torch.uint8).sort(dim=1, descending=True, stable=True)
    slots = min(size, order.shape[1])
    return Sample(index.gather(1, order[:, :slots]), chosen[:, :slots].bool())


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """``values`` [B, A, K] at ``index`` int64 [B, S] -> [B, S, K]."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))
