"""Operators with no or few parameters against numbers computed by hand."""

from __future__ import annotations

import copy

import pytest
import torch

from fusion_det.fusion.add import Add
from fusion_det.fusion.max import Max
from fusion_det.fusion.mean import Mean
from fusion_det.fusion.operator import FusionOperator
from fusion_det.fusion.weighted_fast import WeightedFast
from fusion_det.fusion.weighted_softmax import WeightedSoftmax


def maps(*values: float) -> list[torch.Tensor]:
    """Maps [1, 2, 1, 2] of one value each."""
    return [torch.full((1, 2, 1, 2), value) for value in values]


def test_mean_and_max_by_hand():
    assert torch.equal(Mean(2, 3)(maps(1, 2, 6)), maps(3)[0])
    assert torch.equal(Max(2, 3)(maps(1, -2, 6)), maps(6)[0])


def test_max_tells_in_how_many_channels_each_input_won():
    operator = Max(2, 2)
    assert operator.probe() == {}
    x = torch.tensor([[[[1.0, 5.0]], [[1.0, 5.0]]]])  # [1, 2, 1, 2]
    y = torch.tensor([[[[2.0, 0.0]], [[0.0, 5.0]]]])
    operator([x, y])
    # first position: y wins channel 0, x channel 1; second: x wins both, the second as the first of equals
    assert operator.probe()["weights"].tolist() == [[[[0.5, 1.0]], [[0.5, 0.0]]]]


def test_weighted_fast_by_hand():
    operator = WeightedFast(2, 3, eps=1e-4)
    with torch.no_grad():
        operator.edge_weights.copy_(torch.tensor([3.0, 1.0, -2.0]))
    expected = (3 * 10 + 1 * 20) / (4 + 1e-4)  # the third is cut to 0
    assert torch.allclose(operator(maps(10, 20, 1000)), maps(expected)[0])
    assert operator.probe()["weights"].flatten().tolist() == pytest.approx([3 / 4.0001, 1 / 4.0001, 0])


def test_weighted_fast_is_the_mean_for_equal_weights_and_zero_for_none():
    operator, inputs = WeightedFast(2, 3), maps(1, 2, 6)
    assert torch.allclose(operator(inputs), Mean(2, 3)(inputs), rtol=1e-4)
    torch.nn.init.zeros_(operator.edge_weights)
    assert torch.equal(operator(inputs), torch.zeros(1, 2, 1, 2))


def test_weighted_softmax_by_hand_and_mean_at_the_start():
    operator, inputs = WeightedSoftmax(2, 3), maps(1, 2, 6)
    assert torch.allclose(operator(inputs), Mean(2, 3)(inputs))
    with torch.no_grad():
        operator.edge_weights.copy_(torch.tensor([1.0, 2.0, 4.0]).log())
    assert torch.allclose(operator(inputs), maps((1 + 4 + 24) / 7)[0])
    assert operator.probe()["weights"].flatten().tolist() == pytest.approx([1 / 7, 2 / 7, 4 / 7])


@pytest.mark.parametrize("numbers", [[1.0, 0.5, 2.0], [1.0, -0.3, 0.2], [-1.0, -2.0, -3.0]])
def test_gradient_of_the_fast_weights_is_that_of_the_formula(numbers):
    inputs, operator = maps(1.0, 2.0, 3.0), WeightedFast(2, 3)
    with torch.no_grad():
        operator.edge_weights.copy_(torch.tensor(numbers))
    numbers = operator.edge_weights.detach().clone().requires_grad_()
    shares = numbers.relu() / (numbers.relu().sum() + 1e-4)
    seed = torch.randn_like(inputs[0])
    (wanted,) = torch.autograd.grad(sum(w * x for w, x in zip(shares, inputs, strict=True)), numbers, seed)
    (found,) = torch.autograd.grad(operator(inputs), operator.edge_weights, seed)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_weights_keep_the_type_of_the_maps():
    inputs = [x.bfloat16() for x in maps(1, 2)]
    assert WeightedFast(2, 2)(inputs).dtype == torch.bfloat16


@pytest.mark.parametrize("operator", [WeightedFast, WeightedSoftmax])
def test_bf16_keeps_the_gradient_of_the_weights_where_the_maps_are_alike(operator):
    common = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    inputs = [common, common + 0.25, common - 0.25]
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        fusion = operator(2, 3)
        (fusion([x.to(dtype) for x in inputs]) * (100 * common).to(dtype)).float().sum().backward()
        grads.append(fusion.edge_weights.grad)
    assert torch.allclose(*grads, rtol=0.03, atol=0.03 * grads[0].abs().max().item())


def test_probes_are_detached_and_do_not_stop_copies():
    operator = WeightedSoftmax(2, 2)
    operator(maps(1, 2))
    weights = operator.probe()["weights"]
    assert not weights.requires_grad
    assert torch.equal(copy.deepcopy(operator).probe()["weights"], weights)


def test_operators_that_decide_nothing_have_no_probe_and_no_losses():
    operator = Add(2, 2)
    operator(maps(1, 2))
    operator.reinforce(torch.tensor(1.0))
    assert operator.probe() == {}
    assert operator.auxiliary_losses() == {}


def test_an_operator_without_a_formula_says_so():
    class Lazy(FusionOperator):
        pass

    with pytest.raises(NotImplementedError, match="Lazy does not implement fuse"):
        Lazy(2, 2)(maps(1, 2))
