"""Learning-rate schedules: pure functions of the iteration, so that resuming needs no history."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch.optim.lr_scheduler import LambdaLR

Share = Annotated[float, Field(ge=0, le=1)]


def cosine(optimizer: torch.optim.Optimizer, total: int, *, warmup_fraction: Share, warmup_factor: Share, final_factor: Share) -> LambdaLR:
    """Linear warm-up over ``warmup_fraction`` of the ``total`` iterations, then half a cosine down to ``final_factor``."""
    warmup = max(1, round(total * warmup_fraction))

    def factor(step: int) -> float:
        if step < warmup:
            return _linear(step, warmup, warmup_factor)
        progress = min(1.0, (step - warmup) / max(1, total - warmup))
        return final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def multistep(
    optimizer: torch.optim.Optimizer, total: int, *, warmup_fraction: Share, warmup_factor: Share, milestones: list[Share], gamma: Share
) -> LambdaLR:
    """Linear warm-up, then the rate times ``gamma`` at each of the ``milestones`` (shares of the ``total`` iterations)."""
    warmup = max(1, round(total * warmup_fraction))
    steps = [round(total * share) for share in milestones]

    def factor(step: int) -> float:
        return _linear(step, warmup, warmup_factor) if step < warmup else gamma ** sum(step >= s for s in steps)

    return LambdaLR(optimizer, factor)


def _linear(step: int, warmup: int, start: float) -> float:
    return start + (1 - start) * (step + 1) / warmup
