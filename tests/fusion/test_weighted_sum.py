"""The weighted sum and its gradients against the formula written out."""

from __future__ import annotations

import pytest
import torch

from fusion_det.fusion.weighted_sum import weighted_sum


def maps(number, dtype=torch.double):
    return [torch.randn(2, 3, 4, 5, dtype=dtype, generator=torch.Generator().manual_seed(i)).requires_grad_() for i in range(number)]


@pytest.mark.parametrize("layouts", ["NCHW", "channels_last", "mixed"])
def test_first_and_second_gradients(layouts):
    weights, inputs = torch.rand(3, dtype=torch.double, requires_grad=True), maps(3)
    if layouts != "NCHW":
        chosen = slice(1) if layouts == "mixed" else slice(3)
        inputs[chosen] = [x.detach().contiguous(memory_format=torch.channels_last).requires_grad_() for x in inputs[chosen]]
    assert torch.autograd.gradcheck(lambda w, *x: weighted_sum(x, w), (weights, *inputs))
    assert torch.autograd.gradgradcheck(lambda w, *x: weighted_sum(x, w), (weights, *inputs))


def test_only_what_needs_a_gradient_gets_one():
    weights, (x, y) = torch.rand(2, dtype=torch.double), maps(2)
    weighted_sum([x, y.detach()], weights).sum().backward()
    assert torch.equal(x.grad, weights[0].expand_as(x))
    assert y.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_type_is_the_inputs_widest_and_the_inputs_stay(dtype):
    weights, inputs = torch.tensor([0.25, 0.5]), [x.detach().to(t) for x, t in zip(maps(2), (torch.bfloat16, dtype), strict=True)]
    before = [x.clone() for x in inputs]
    total = weighted_sum(inputs, weights)
    assert total.dtype == dtype
    assert torch.allclose(total.float(), 0.25 * inputs[0].float() + 0.5 * inputs[1].float(), rtol=0.02, atol=0.01)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


@pytest.mark.parametrize("weights", [[0.25097, 0.0], [0.0, 0.25097]])
def test_weights_are_not_rounded_to_the_maps_type(weights):
    maps = [torch.full((1, 1, 1, 1), 255.0, dtype=torch.bfloat16)] * 2
    assert weighted_sum(maps, torch.tensor(weights)).item() == 64  # 63.75 with the weight as bf16, 0.25
