"""The base of every fusion operator."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class FusionOperator(nn.Module):
    """N maps of equal shape -> one. Subclasses implement :meth:`fuse`; those that decide something :meth:`remember` it."""

    def __init__(self, channels: int, num_inputs: int) -> None:
        super().__init__()
        if num_inputs < 2:
            raise ValueError(f"{type(self).__name__}: expected at least 2 inputs, got {num_inputs}; a node with one input has no operator")
        self.channels, self.num_inputs = channels, num_inputs
        self.remembered: dict[str, Tensor] = {}

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Fuse ``inputs``: N tensors [B, C, H, W], the node's own level first -> [B, C, H, W]."""
        if len(inputs) != self.num_inputs:
            raise ValueError(f"{type(self).__name__}: expected {self.num_inputs} inputs, got {len(inputs)}")
        return self.fuse(inputs)

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        """The operator's formula; ``inputs`` are N tensors [B, C, H, W]."""
        raise NotImplementedError(f"{type(self).__name__} does not implement fuse()")

    def remember(self, **decided: Tensor) -> None:
        """Keep what this forward pass decided, detached, until the next one."""
        self.remembered = {name: value.detach() for name, value in decided.items()}

    def probe(self) -> dict[str, Tensor]:
        """What the last forward pass decided, detached; empty where there is nothing to decide, and before the first pass.

        Operators that weigh their inputs call it ``weights`` [B, N, h, w], the mean over channels of the factor on each input,
        with 1 in place of B, h or w where it does not depend on them. Gates are reduced here, not in the forward pass.
        """
        return dict(self.remembered)

    def reinforce(self, reward: Tensor) -> None:
        """Hear how good the last training pass was: [B] per map or one number [], larger is better; for operators that sample."""

    def auxiliary_losses(self) -> dict[str, Tensor]:
        """The operator's own losses of the last training pass, named scalars (``loss_...``) to be added to the detector's; often none."""
        return {}
