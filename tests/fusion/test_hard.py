"""Hard attention: what it chooses, and how it learns to, measured on a bandit whose gradient is known."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from fusion_det.fusion.hard import Hard
from fusion_det.fusion.policy import PolicyGradient


def maps(number: int, batch: int = 2) -> list[Tensor]:
    return [torch.full((batch, 2, 3, 4), float(10**i)) for i in range(number)]


def prefer(operator: Hard, *logits: float) -> Hard:
    """Fix the policy's logits."""
    torch.nn.init.zeros_(operator.policy.weight)
    operator.policy.bias.data[:] = torch.tensor(logits)
    return operator


@pytest.mark.parametrize("estimator", ["straight_through", "reinforce"])
@pytest.mark.parametrize("per", ["position", "image"])
def test_training_draws_one_input_and_evaluation_takes_the_likeliest(per, estimator):
    torch.manual_seed(0)
    operator = prefer(Hard(2, 3, per=per, estimator=estimator), 0.0, 1.0, 0.0)
    inputs = maps(3, batch=200)
    fused = operator(inputs)
    chosen = operator.probe()["weights"]
    assert chosen.shape == ((200, 3, 3, 4) if per == "position" else (200, 3, 1, 1))
    assert torch.equal(chosen.sum(1), torch.ones_like(chosen[:, 0]))
    assert set(chosen.unique().tolist()) == {0.0, 1.0}
    assert torch.allclose(fused, sum(chosen[:, i : i + 1] * x for i, x in enumerate(inputs)))
    share = chosen.mean((0, 2, 3))
    assert share.tolist() == pytest.approx([0.2119, 0.5761, 0.2119], abs=0.12)
    assert operator.probe()["probabilities"][0, :, 0, 0].tolist() == pytest.approx([0.2119, 0.5761, 0.2119], abs=1e-3)
    assert torch.equal(operator.eval()(inputs), inputs[1])


@pytest.mark.parametrize("training", [True, False])
def test_straight_through_has_the_gradient_of_the_softmax(training):
    """The output is one input, the gradient of the policy that of the mixture (without noise in evaluation)."""
    operator = prefer(Hard(2, 2, temperature=0.5), 0.3, 0.0).train(training)
    inputs = maps(2)
    operator(inputs).sum().backward()
    if training:
        assert operator.policy.bias.grad.abs().sum() > 0
        return
    bias = torch.tensor([0.3, 0.0], requires_grad=True)
    soft = (bias / 0.5).softmax(0)
    (soft[0] * inputs[0] + soft[1] * inputs[1]).sum().backward()
    assert torch.allclose(operator.policy.bias.grad, bias.grad, rtol=1e-4)


def test_reinforce_leaves_the_maps_alone():
    operator = Hard(2, 2, per="image", estimator="reinforce")
    inputs = [x.requires_grad_() for x in maps(2)]
    operator(inputs)
    operator.reinforce(torch.tensor([1.0, -2.0]))
    losses = operator.auxiliary_losses()
    assert set(losses) == {"loss_policy", "loss_baseline"}
    sum(losses.values()).backward()
    assert all(x.grad is None for x in inputs)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in operator.score.parameters())
    assert operator.policy.bias.grad.abs().sum() > 0


def test_losses_by_hand():
    score = PolicyGradient(1, policy_weight=0.5, baseline_weight=2.0)
    score.baseline.bias.data.fill_(1.0)
    log_probability = torch.tensor([[[-1.0, -3.0]], [[-4.0, -4.0]]], requires_grad=True)  # [2, 1, 2]
    score.keep(log_probability, torch.zeros(2, 1))
    score.reward(torch.tensor([3.0, 0.0]))
    losses = score.losses()
    # advantages 2 and -1, mean log-probabilities -2 and -4
    assert losses["loss_policy"].item() == pytest.approx(-0.5 * (2 * -2 + -1 * -4) / 2)
    assert losses["loss_baseline"].item() == pytest.approx(2 * (4 + 1) / 2)
    assert score.losses() == {}, "a pass is rewarded once"


def test_the_order_of_calls():
    operator = Hard(2, 2, estimator="reinforce")
    operator.reinforce(torch.tensor(1.0))
    assert operator.auxiliary_losses() == {}, "no pass, no losses"
    operator(maps(2))
    with pytest.raises(RuntimeError, match="need reinforce"):
        operator.auxiliary_losses()
    with pytest.raises(ValueError, match=r"expected one number or \[2\], got \[3\]"):
        operator.reinforce(torch.zeros(3))
    operator.reinforce(torch.tensor(1.0))
    assert operator.auxiliary_losses()["loss_policy"].dim() == 0
    with torch.no_grad():
        operator(maps(2))
    operator.eval()(maps(2))
    assert operator.auxiliary_losses() == {}, "passes without training leave nothing behind"
    copy.deepcopy(operator)
    assert Hard(2, 2).auxiliary_losses() == {}


def bandit_gradients(baseline: float, rounds: int = 400, batch: int = 50) -> tuple[Tensor, Tensor]:
    """Gradients of ``loss_policy`` for the policy's logits in many rounds of a three-armed bandit, and the exact one."""
    torch.manual_seed(0)
    rewards, logits = torch.tensor([3.0, 5.0, 4.0]), torch.tensor([0.5, 0.0, -0.5])
    operator = prefer(Hard(2, 3, per="image", estimator="reinforce", policy_weight=1.0), *logits.tolist())
    operator.score.baseline.bias.data.fill_(baseline)
    inputs, found = maps(3, batch), []
    for _ in range(rounds):
        operator.zero_grad()
        operator(inputs)
        arm = operator.probe()["weights"][:, :, 0, 0]
        operator.reinforce(arm @ rewards)
        operator.auxiliary_losses()["loss_policy"].backward()
        found.append(operator.policy.bias.grad.clone())
    logits.requires_grad_()
    (-(logits.softmax(0) @ rewards)).backward()
    return torch.stack(found), logits.grad


@pytest.mark.parametrize("baseline", [0.0, 3.8, 10.0])
def test_the_score_function_is_unbiased_whatever_the_baseline(baseline):
    found, exact = bandit_gradients(baseline)
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - exact).abs() < 4 * error).all()
    assert (exact.abs() > 4 * error).any(), "the test could not tell the gradient from zero"


def test_a_good_baseline_lowers_the_variance():
    without, with_baseline = (bandit_gradients(baseline)[0].var(0).sum() for baseline in (0.0, 3.8))
    assert with_baseline < 0.1 * without


def test_the_policy_and_its_baseline_learn_the_best_arm():
    torch.manual_seed(1)
    operator = Hard(2, 3, per="image", estimator="reinforce", policy_weight=1.0)
    inputs = [torch.randn(32, 2, 3, 4) for _ in range(3)]
    optimizer = torch.optim.SGD(operator.parameters(), lr=0.3)
    for _ in range(150):
        optimizer.zero_grad()
        operator(inputs)
        reward = operator.probe()["weights"][:, :, 0, 0] @ torch.tensor([3.0, 5.0, 4.0])
        operator.reinforce(reward)
        sum(operator.auxiliary_losses().values()).backward()
        optimizer.step()
    operator.eval()(inputs)
    assert (operator.probe()["probabilities"][:, 1] > 0.8).all()
    assert operator.score.baseline.bias.item() == pytest.approx(4.9, abs=0.4)
