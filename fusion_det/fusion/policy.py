"""How a random choice learns from a reward: the score function with a learned baseline."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.layers import full_precision


class PolicyGradient(nn.Module):
    """``-policy_weight (R - b(s)) log p(k | s)`` and ``baseline_weight (R - b(s))^2``, means over the batch.

    R is the reward, b a linear function of the pooled state s, whose gradient stops here. As b does not depend on the choice, the policy's
    gradient stays unbiased; it loses the variance that b explains. With a choice per position, ``log p`` is the mean over positions: the
    image's joint log-probability divided by their number, so that ``policy_weight`` means the same at every size.

    Order of calls per training pass: :meth:`keep` (forward), :meth:`reward`, :meth:`losses`; a later forward pass replaces an earlier one.
    """

    def __init__(self, state_channels: int, policy_weight: float, baseline_weight: float) -> None:
        super().__init__()
        self.policy_weight, self.baseline_weight = policy_weight, baseline_weight
        self.baseline = nn.Linear(state_channels, 1)
        nn.init.zeros_(self.baseline.weight)
        nn.init.zeros_(self.baseline.bias)
        self.kept: tuple[Tensor, Tensor] | None = None
        self.rewarded: Tensor | None = None

    def keep(self, log_probability: Tensor, state: Tensor) -> None:
        """Log-probability of what was chosen, [B, h, w], and the pooled state that the baseline sees, [B, S], without gradient."""
        with full_precision(state):
            self.kept = (log_probability.mean((1, 2)), self.baseline(state)[:, 0])
        self.rewarded = None

    def reward(self, reward: Tensor) -> None:
        """How good the choice was, larger is better: [B], or one number [] for the whole batch. Before any pass it is ignored."""
        if self.kept is None:
            return
        batch = len(self.kept[0])
        if reward.dim() and reward.shape != (batch,):
            raise ValueError(f"reward: expected one number or [{batch}], got {list(reward.shape)}")
        self.rewarded = reward.detach().float().expand(batch)

    def losses(self) -> dict[str, Tensor]:
        """The two losses of the last pass, once; empty if there was none. A pass without a reward would never teach anything."""
        if self.kept is None:
            return {}
        if self.rewarded is None:
            raise RuntimeError("the policy's losses need reinforce(reward) after the forward pass, e.g. with the negative detection loss")
        (log_probability, baseline), reward = self.kept, self.rewarded
        self.kept = self.rewarded = None
        advantage = (reward - baseline).detach()
        return {
            "loss_policy": -self.policy_weight * (advantage * log_probability).mean(),
            "loss_baseline": self.baseline_weight * F.mse_loss(baseline, reward),
        }
