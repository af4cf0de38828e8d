"""Optimizers with the parameter groups that detectors want."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import nn

from fusion_det.engine.fused_optim import FusedAdamW, FusedSGD


def adamw(
    model: nn.Module,
    *,
    lr: PositiveFloat,
    weight_decay: NonNegativeFloat,
    betas: list[float],
    backbone_lr_factor: NonNegativeFloat,
    norm_decay: bool,
) -> torch.optim.Optimizer:
    """``torch.optim.AdamW``, fused, over :func:`parameter_groups`."""
    groups = parameter_groups(model, lr=lr, weight_decay=weight_decay, backbone_lr_factor=backbone_lr_factor, norm_decay=norm_decay)
    if len(betas) != 2:
        raise ValueError(f"optimizer.betas: expected two numbers, got {betas}")
    return FusedAdamW(groups, lr=lr, betas=(betas[0], betas[1]))


def sgd(
    model: nn.Module,
    *,
    lr: PositiveFloat,
    weight_decay: NonNegativeFloat,
    momentum: Annotated[float, Field(ge=0, lt=1)],
    nesterov: bool,
    backbone_lr_factor: NonNegativeFloat,
    norm_decay: bool,
) -> torch.optim.Optimizer:
    """``torch.optim.SGD``, fused, with momentum over :func:`parameter_groups`."""
    groups = parameter_groups(model, lr=lr, weight_decay=weight_decay, backbone_lr_factor=backbone_lr_factor, norm_decay=norm_decay)
    return FusedSGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)


def parameter_groups(
    model: nn.Module, *, lr: float, weight_decay: float, backbone_lr_factor: float, norm_decay: bool
) -> list[dict[str, Any]]:
    """At most four groups: {backbone, rest} x {decayed, not decayed}; parameters that need no gradient are left out.

    Not decayed, unless ``norm_decay``: biases, normalisation parameters and learned scalars, that is all of fewer than two dimensions.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "backbone" if name.startswith("backbone.") else "rest"
        decayed = norm_decay or parameter.ndim >= 2
        group = groups.setdefault(
            f"{part}/{'decay' if decayed else 'no_decay'}",
            {
                "params": [],
                "lr": lr * (backbone_lr_factor if part == "backbone" else 1.0),
                "weight_decay": weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return [{**group, "name": name} for name, group in groups.items()]
