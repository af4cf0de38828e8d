"""Fused optimizers: torch's, bit by bit, whatever the layout of weights, gradients and state."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from fusion_det.engine.fused_optim import FusedAdamW, FusedSGD

LAYOUTS = (torch.contiguous_format, torch.channels_last)
OURS = {
    "sgd": lambda p: FusedSGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "sgd nesterov": lambda p: FusedSGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "sgd plain": lambda p: FusedSGD(p, lr=0.1),
    "adamw": lambda p: FusedAdamW(p, lr=0.1, betas=(0.9, 0.99), weight_decay=0.01),
}
TORCHS = {
    "sgd": lambda p, **k: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, **k),
    "sgd nesterov": lambda p, **k: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, **k),
    "sgd plain": lambda p, **k: torch.optim.SGD(p, lr=0.1, **k),
    "adamw": lambda p, **k: torch.optim.AdamW(p, lr=0.1, betas=(0.9, 0.99), weight_decay=0.01, **k),
}


def network(layout):
    torch.manual_seed(0)
    layers = nn.Conv2d(8, 6, 3), nn.Conv2d(6, 5, 1), nn.ConvTranspose2d(5, 4, 2), nn.Conv2d(4, 4, 3, groups=4), nn.Linear(4, 3)
    return nn.Sequential(*layers).to(memory_format=layout)


def give_gradients(model, step, layout=None):
    """Random ones, in the layout of the parameters unless told otherwise."""
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        gradient = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
        if layout is not None and gradient.ndim == 4:
            gradient = gradient.contiguous(memory_format=layout)
        parameter.grad = None
        parameter.grad = gradient


def after(model, optimizer, steps=3, layout=None):
    for step in range(steps):
        give_gradients(model, step, layout)
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OURS)
def test_steps_are_torchs_bit_by_bit(name, layout):
    model, reference = network(layout), network(torch.contiguous_format)
    ours = after(model, OURS[name](model.parameters()))
    theirs = after(reference, TORCHS[name](reference.parameters(), fused=True))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert [p.is_contiguous(memory_format=layout) for p in model.parameters() if p.ndim == 4] == [True] * 4


@pytest.mark.parametrize("weights", LAYOUTS)
@pytest.mark.parametrize("gradients", LAYOUTS)
@pytest.mark.parametrize("name", OURS)
def test_gradients_may_be_laid_out_otherwise_than_weights(name, gradients, weights):
    model, reference = network(weights), network(torch.contiguous_format)
    ours = after(model, OURS[name](model.parameters()), layout=gradients)
    theirs = after(reference, TORCHS[name](reference.parameters(), fused=False, foreach=False))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("before", LAYOUTS)
@pytest.mark.parametrize("now", LAYOUTS)
@pytest.mark.parametrize("name", OURS)
def test_state_of_torchs_goes_on_in_any_layout(name, before, now):
    reference = network(before)
    theirs = TORCHS[name](reference.parameters(), fused=False, foreach=False)
    after(reference, theirs)
    model = copy.deepcopy(reference).to(memory_format=now)
    ours = OURS[name](model.parameters())
    ours.load_state_dict({**copy.deepcopy(theirs.state_dict()), "param_groups": ours.state_dict()["param_groups"]})
    for a, b in zip(after(model, ours), after(reference, theirs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", OURS)
def test_state_has_the_parameters_shapes_and_names(name):
    model, reference = network(torch.channels_last), network(torch.channels_last)
    ours, theirs = OURS[name](model.parameters()), TORCHS[name](reference.parameters(), fused=True)
    after(model, ours)
    after(reference, theirs)
    theirs.load_state_dict(ours.state_dict())
    shapes = {key: {n: tuple(v.shape) for n, v in state.items() if v is not None} for key, state in theirs.state_dict()["state"].items()}
    assert shapes == {key: {n: tuple(v.shape) for n, v in state.items()} for key, state in ours.state_dict()["state"].items() if state}


@pytest.mark.parametrize("name", OURS)
def test_a_parameter_may_get_its_first_gradient_late(name):
    model, reference = network(torch.channels_last), network(torch.channels_last)
    optimizers = OURS[name](model.parameters()), TORCHS[name](reference.parameters(), fused=False, foreach=False)
    for net, optimizer in zip((model, reference), optimizers, strict=True):
        give_gradients(net, 0)
        net[0].weight.grad = None
        optimizer.step()
        assert torch.equal(net[0].weight, network(torch.channels_last)[0].weight)
        after(net, optimizer)
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", OURS)
def test_gradients_of_nhwc_weights_are_not_copied(name):
    model = network(torch.channels_last)
    optimizer = OURS[name](model.parameters())
    after(model, optimizer, steps=1)
    give_gradients(model, 1)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        optimizer.step()
    assert not {event.key for event in profiler.key_averages()} & {"aten::contiguous", "aten::clone"}


def test_a_closure_is_called_with_gradients():
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = FusedSGD([weight], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 4
    assert weight == 0
