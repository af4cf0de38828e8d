"""The base of every fusion operator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn


class Remembers(nn.Module):
    """A part that can keep what it decides. Alone it does; inside a detector only within :func:`remembering`, as maps take memory."""

    remembers = True

    def forget(self) -> None:
        """Let go of what the last forward pass decided."""
        raise NotImplementedError(f"{type(self).__name__} does not implement forget()")


def set_remembering(model: nn.Module, remembers: bool) -> None:
    """Switch every operator inside ``model``; those switched off forget."""
    for part in model.modules():
        if isinstance(part, Remembers):
            part.remembers = remembers
            if not remembers:
                part.forget()


@contextmanager
def remembering(model: nn.Module) -> Iterator[None]:
    """Let the operators inside ``model`` keep what they decide, for :meth:`FusionOperator.probe`; afterwards all is as it was before."""
    before = [(part, part.remembers) for part in model.modules() if isinstance(part, Remembers)]
    set_remembering(model, True)
    try:
        yield
    finally:
        for part, kept in before:
            part.remembers = kept
            if not kept:
                part.forget()


class FusionOperator(Remembers):
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
        """Keep what this forward pass decided, detached, until the next one; not at all where remembering is switched off."""
        if self.remembers:
            self.remembered = {name: value.detach() for name, value in decided.items()}

    def forget(self) -> None:
        self.remembered = {}

    def probe(self) -> dict[str, Tensor]:
        """What the last forward pass decided, detached; empty where there is nothing to decide, and where nothing was remembered: before
        the first pass and, inside a detector, outside :func:`remembering`.

        Operators that weigh their inputs call it ``weights`` [B, N, h, w], the mean over channels of the factor on each input
        (or its share of the result, where there is no factor), with 1 in place of B, h or w where it does not depend on them.
        Gates are reduced here, not in the forward pass.
        """
        return dict(self.remembered)

    def reinforce(self, reward: Tensor) -> None:
        """Hear how good the last training pass was: [B] per map or one number [], larger is better; for operators that sample."""

    def auxiliary_losses(self) -> dict[str, Tensor]:
        """The operator's own losses of the last training pass, named scalars (``loss_...``) to be added to the detector's; often none."""
        return {}
