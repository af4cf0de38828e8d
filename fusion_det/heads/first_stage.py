"""What a first stage with anchors gives the second: losses with proposals to learn from, or proposals alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from fusion_det.heads.anchors import Anchors
from fusion_det.heads.proposals import Proposals
from fusion_det.structures import Targets


class AnchorStage(nn.Module, ABC):
    """A first stage that predicts for all anchors at once: ``self(features)`` gives logits, deltas [B, A, 4] and the anchors."""

    @abstractmethod
    def losses(self, logits: Tensor, deltas: Tensor, anchors: Anchors, targets: Targets) -> dict[str, Tensor]:
        """``loss_rpn_cls`` and ``loss_rpn_box`` of a padded batch."""

    @abstractmethod
    def propose(self, logits: Tensor, deltas: Tensor, anchors: Anchors, limits: Tensor, *, training: bool) -> Proposals:
        """Proposals of a batch, clipped to ``limits`` [B, 1, 4] or [1, 1, 4]."""

    def learn(self, features: Sequence[Tensor], targets: Targets, limits: Tensor) -> tuple[dict[str, Tensor], Proposals]:
        """The losses, and proposals for the second stage to learn from, clipped to ``limits`` [1, 1, 4]."""
        logits, deltas, anchors = self(features)
        return self.losses(logits, deltas, anchors, targets), self.propose(logits, deltas, anchors, limits, training=True)

    def find(self, features: Sequence[Tensor], limits: Tensor) -> Proposals:
        """Proposals of each picture, clipped to ``limits`` [B, 1, 4]."""
        logits, deltas, anchors = self(features)
        return self.propose(logits, deltas, anchors, limits, training=False)
