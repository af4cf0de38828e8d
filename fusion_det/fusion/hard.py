"""Hard attention: one input is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.fusion.gates import gated_sum
from fusion_det.fusion.operator import FusionOperator
from fusion_det.fusion.policy import PolicyGradient


class Hard(FusionOperator):
    """``y = x_k``, k drawn from ``softmax(W [x_1; ...; x_N])`` in training and the most probable one in evaluation.

    ``per``: a choice at each ``position``, or one per ``image`` from the global means. ``estimator``, how W learns through the choice:

    - ``straight_through``: forward one-hot, backward as if it were the Gumbel softmax of ``temperature`` (Jang, Gu and Poole, ICLR 2017,
      arXiv 1611.01144, Sec. 2.2); low variance, biased, needs nothing from outside.
    - ``reinforce``: the score function with a learned baseline (Williams 1992; recurrent attention: Mnih et al., NIPS 2014, arXiv
      1406.6247, Eq. 3); unbiased for one choice per image. After each training pass the detector calls ``reinforce(reward)`` with the
      negative detection loss, then adds ``auxiliary_losses()``: ``loss_policy`` and ``loss_baseline`` (:mod:`fusion_det.fusion.policy`).
      As in that paper, the policy reads the maps without shaping them: the noisy gradient reaches W only.
    """

    def __init__(
        self,
        channels: int,
        num_inputs: int,
        *,
        per: Literal["position", "image"] = "position",
        estimator: Literal["straight_through", "reinforce"] = "straight_through",
        temperature: PositiveFloat = 1.0,
        policy_weight: NonNegativeFloat = 0.01,
        baseline_weight: NonNegativeFloat = 1.0,
    ) -> None:
        super().__init__(channels, num_inputs)
        self.per, self.temperature = per, temperature
        self.policy = nn.Conv2d(num_inputs * channels, num_inputs, kernel_size=1)
        nn.init.normal_(self.policy.weight, std=0.01)  # near a fair choice
        nn.init.zeros_(self.policy.bias)  # type: ignore[arg-type]
        learns_from_reward = estimator == "reinforce"
        self.score = PolicyGradient(num_inputs * channels, policy_weight, baseline_weight) if learns_from_reward else None

    def fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        state = torch.cat([x.mean((2, 3), keepdim=True) if self.per == "image" else x for x in inputs], dim=1)  # [B, N C, h, w]
        if self.score is None:
            logits = self.policy(state).float()
            chosen = self._straight_through(logits)
        else:
            logits = self.policy(state.detach()).float()
            chosen = self._sampled(logits, state.detach(), self.score)
        self.remember(weights=chosen, logits=logits)
        return gated_sum(inputs, chosen.split(1, dim=1))

    def _straight_through(self, logits: Tensor) -> Tensor:
        """Logits [B, N, h, w] -> one-hot of the same shape, with the gradient of the softmax."""
        if self.training:
            return F.gumbel_softmax(logits, self.temperature, hard=True, dim=1)
        soft = (logits / self.temperature).softmax(dim=1)
        return one_hot(logits.argmax(dim=1), self.num_inputs) + (soft - soft.detach())

    def _sampled(self, logits: Tensor, state: Tensor, score: PolicyGradient) -> Tensor:
        """Logits [B, N, h, w] -> one-hot of the same shape; in training drawn, and its probability kept for the reward."""
        if not self.training:
            return one_hot(logits.argmax(dim=1), self.num_inputs)
        gumbel = -torch.empty_like(logits).exponential_().log()
        index = (logits.detach() + gumbel).argmax(dim=1)  # a draw from the softmax
        if torch.is_grad_enabled():
            log_probability = logits.log_softmax(dim=1).gather(1, index[:, None])[:, 0]
            score.keep(log_probability, state.float().mean((2, 3)))
        return one_hot(index, self.num_inputs)

    def probe(self) -> dict[str, Tensor]:
        """``weights`` [B, N, h, w], one-hot, and the ``probabilities`` that the choice was drawn from; h = w = 1 with ``per=image``."""
        if not self.remembered:
            return {}
        return {"weights": self.remembered["weights"], "probabilities": self.remembered["logits"].softmax(dim=1)}

    def reinforce(self, reward: Tensor) -> None:
        if self.score is not None:
            self.score.reward(reward)

    def auxiliary_losses(self) -> dict[str, Tensor]:
        """``loss_policy`` and ``loss_baseline`` for ``estimator=reinforce`` after a training pass, else empty."""
        return {} if self.score is None else self.score.losses()


def one_hot(index: Tensor, count: int) -> Tensor:
    """[B, h, w] -> [B, count, h, w], float32."""
    return F.one_hot(index, count).movedim(3, 1).float()
