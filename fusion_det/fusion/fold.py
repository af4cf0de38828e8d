"""From two inputs to N: how operators that their papers define for pairs fuse more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fusion_det.fusion.gates import mean_weights
from fusion_det.fusion.operator import Remembers


class GatedPair(Remembers):
    """A fusion of two maps that keeps its gate in ``gate``; :meth:`factors` tells what it multiplied each of them by."""

    gate: Tensor | None = None

    def keep(self, gate: Tensor) -> None:
        """Remember the gate [B, C, h, w] of this forward pass, detached, unless remembering is switched off."""
        if self.remembers:
            self.gate = gate.detach()

    def forget(self) -> None:
        self.gate = None

    def factors(self, gate: Tensor) -> tuple[Tensor, Tensor]:
        """The factors on the first and the second map, [B, C, h, w] each, linear in the gate up to a constant."""
        raise NotImplementedError(f"{type(self).__name__} does not implement factors()")


class Fold(nn.Module):
    """``y_1 = x_1``, ``y_k = pair_{k-1}(y_{k-1}, x_k)``: N - 1 pair modules with weights of their own, the own level first.

    With two inputs this is the paper's operator. The order matters for N > 2: an earlier input passes through more gates.
    """

    def __init__(self, make_pair: Callable[[], nn.Module], num_inputs: int) -> None:
        super().__init__()
        self.pairs = nn.ModuleList(make_pair() for _ in range(num_inputs - 1))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """N maps [B, C, H, W] -> one."""
        total = inputs[0]
        for pair, other in zip(self.pairs, inputs[1:], strict=True):
            total = pair(total, other)
        return total

    def weights(self) -> dict[str, Tensor]:
        """For :class:`GatedPair` modules, the product of all factors that each input went through: ``weights`` [B, N, h, w]."""
        pairs = [pair for pair in self.pairs if isinstance(pair, GatedPair)]
        gates = [pair.gate for pair in pairs if pair.gate is not None]
        if len(gates) < len(self.pairs):
            return {}
        if len(gates) == 1:  # the mean of a linear function: spares whole maps
            gates = [gates[0].mean(dim=1, keepdim=True, dtype=torch.float32)]
        through: list[Tensor] = []
        for pair, gate in zip(pairs, gates, strict=True):
            first, second = pair.factors(gate)
            through = [weight * first for weight in through or [torch.ones_like(first)]]
            through.append(second)
        return {"weights": mean_weights(through)}
