"""The base of every fusion operator."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class FusionOperator(nn.Module):
    """N maps of equal shape -> one map of that shape. Subclasses implement :meth:`fuse`."""

    def __init__(self, channels: int, num_inputs: int) -> None:
        super().__init__()
        if num_inputs < 2:
            raise ValueError(f"{type(self).__name__}: expected at least 2 inputs, got {num_inputs}; a node with one input has no operator")
        self.channels, self.num_inputs = channels, num_inputs

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Fuse ``inputs``: N tensors [B, C, H, W], the node's own level first -> [B, C, H, W]."""
        if len(inputs) != self.num_inputs:
            raise ValueError(f"{type(self).__name__}: expected {self.num_inputs} inputs, got {len(inputs)}")
        return self.fuse(inputs)

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        """The operator's formula; ``inputs`` are N tensors [B, C, H, W]."""
        raise NotImplementedError(f"{type(self).__name__} does not implement fuse()")

    def probe(self) -> dict[str, Tensor]:
        """What the last forward pass decided (weights, gates, chosen input), detached; empty where there is nothing to decide."""
        return {}
