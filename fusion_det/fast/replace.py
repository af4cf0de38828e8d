"""Another module in the place of one, wherever it is registered."""

from __future__ import annotations

from torch import nn


def replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` where ``model`` holds ``old``; it may be in several places."""
    new.train(old.training)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, name, new)
