"""Backbones with parts that do not learn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from torch import nn


class PartlyFrozen(nn.Module):
    """Frozen modules get no gradient and stay in evaluation mode, so that BatchNorm keeps its statistics as well."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen_modules: list[nn.Module] = []

    def freeze(self, modules: Iterable[nn.Module]) -> None:
        """Stop ``modules`` and all inside them from learning."""
        self.frozen_modules += [module.requires_grad_(False).eval() for module in modules]

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but the frozen modules."""
        super().train(mode)
        for module in self.frozen_modules:
            module.eval()
        return self
