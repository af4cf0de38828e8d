"""Winograd's convolution gives the numbers of the direct sum, and takes over where it was found faster and nowhere else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fusion_det.engine.device import autocast
from fusion_det.fast import packing, winograd
from fusion_det.fast.packing import PackedConv2d, pack_layers
from fusion_det.fast.winograd import WinogradConv2d, use_winograd

pytestmark = pytest.mark.skipif(torch.float32 not in packing._precisions(), reason="this torch has no oneDNN")


@pytest.fixture(autouse=True)
def everywhere(monkeypatch):
    """On any processor, from any size."""
    monkeypatch.setattr(winograd, "_fit", lambda: True)
    monkeypatch.setattr(winograd, "CHANNELS", 8)
    monkeypatch.setattr(winograd, "WORK", 0)
    monkeypatch.setattr(winograd, "FEWEST", 64)


def fast(conv: nn.Conv2d) -> nn.Module:
    model = nn.Sequential(copy.deepcopy(conv)).eval()
    pack_layers(model)
    use_winograd(model)
    return model[0]


def took_it(layer: nn.Module) -> bool:
    return any(key.startswith("winograd") for key in vars(layer).get("_packed", {}))


@pytest.mark.parametrize("size", [(32, 32), (45, 39), (62, 33), (200, 17), (30, 43)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 1), (2, 1)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("memory", [0, 2**18, 2**24])
def test_the_numbers_of_the_direct_sum(monkeypatch, size, padding, batch, memory):
    monkeypatch.setattr(winograd, "MEMORY", memory)
    torch.manual_seed(0)
    conv = nn.Conv2d(12, 20, 3, padding=padding, bias=batch == 3)
    layer, x = fast(conv), torch.randn(batch, 12, *size)
    right = F.conv2d(x.double(), conv.weight.double(), None if conv.bias is None else conv.bias.double(), padding=padding)
    for image in (x, x.contiguous(memory_format=torch.channels_last)):
        with torch.inference_mode():
            found = layer(image)
        assert found.shape == right.shape
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert (found - right).abs().max() < 3e-5 * right.abs().max()
    assert took_it(layer)


def test_small_maps_gradients_and_bf16_go_the_usual_way(monkeypatch):
    layer = fast(nn.Conv2d(16, 16, 3, padding=1))
    layer(torch.randn(1, 16, 64, 64)).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        assert layer(torch.randn(4, 16, 10, 10)).shape == (4, 16, 10, 10)  # 36 tiles
        with autocast(torch.device("cpu"), "bf16"):
            layer(torch.randn(1, 16, 64, 64))
        monkeypatch.setattr(winograd, "WORK", 10**9)
        layer(torch.randn(1, 16, 64, 64))
        assert layer(torch.randn(0, 16, 64, 64)).shape == (0, 16, 64, 64)
        assert not took_it(layer)
        monkeypatch.setattr(winograd, "WORK", 0)
        layer(torch.randn(1, 16, 64, 64))
        assert took_it(layer)


@pytest.mark.parametrize("memory", [0, 2**24])
def test_a_relu_behind_it(monkeypatch, memory):
    monkeypatch.setattr(winograd, "MEMORY", memory)
    torch.manual_seed(0)
    layer, x = fast(nn.Conv2d(16, 24, 3, padding=1)), torch.randn(2, 16, 41, 37)
    with torch.inference_mode():
        right = layer(x).relu()
        layer.relu = True
        assert torch.equal(layer(x), right)
    assert right.count_nonzero() < right.numel()


@pytest.mark.skipif(not torch.backends.cpu.get_cpu_capability().startswith("AVX512"), reason="it is not used on this processor")
@pytest.mark.parametrize("channels", [(128, 128), (256, 256), (256, 819)])
@pytest.mark.parametrize("count", [1, 64, 65, 80, 200, 1000])
def test_weights_are_in_the_order_that_is_wanted(channels, count):
    """Else every call would reorder them."""
    inputs, outputs = channels
    size = winograd._suitable(count, inputs, outputs, torch.get_num_threads())
    assert max(count, 64) <= size < max(count, 64) + 64
    weight = torch.randn(36 * outputs, inputs, 1, 1)
    kept, wanted = (winograd._order(winograd._ordered(weight, n)) for n in (64, size))
    assert torch.equal(kept, wanted)


def test_a_number_of_tiles_for_which_another_order_is_wanted_is_rounded_up(monkeypatch):
    monkeypatch.setattr(winograd, "_ordered", lambda weight, count: torch.tensor(count in (70, 78)))
    monkeypatch.setattr(winograd, "_order", lambda order: order)
    winograd._suitable.cache_clear()
    assert [winograd._suitable(count, 8, 8, 1) for count in (3, 64, 70, 71, 78)] == [64, 64, 86, 71, 86]
    winograd._suitable.cache_clear()


def test_new_weights_are_seen_and_a_copy_makes_its_own():
    layer, x = fast(nn.Conv2d(16, 16, 3, padding=1)), torch.randn(1, 16, 64, 64)
    with torch.inference_mode():
        old = layer(x)
    twin = copy.deepcopy(layer)
    assert not took_it(twin)
    twin.load_state_dict({name: 2 * value for name, value in layer.state_dict().items()})
    with torch.inference_mode():
        torch.testing.assert_close(twin(x), 2 * old, rtol=1e-4, atol=1e-5)
    layer.load_state_dict(twin.state_dict())
    with torch.inference_mode():
        assert torch.equal(layer(x), twin(x))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(16, 16, 1),
        nn.Conv2d(16, 16, 5, padding=2),
        nn.Conv2d(16, 16, (3, 1)),
        nn.Conv2d(16, 16, 3, stride=2),
        nn.Conv2d(16, 16, 3, dilation=2),
        nn.Conv2d(16, 16, 3, groups=2),
        nn.Conv2d(16, 4, 3),
    ],
    ids=repr,
)
def test_other_convolutions_are_left_alone(conv):
    assert type(fast(conv)) is PackedConv2d


def test_only_processors_that_it_was_measured_on(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    winograd._fit.cache_clear()
    try:
        assert type(fast(nn.Conv2d(256, 256, 3))) is PackedConv2d
        monkeypatch.undo()
        winograd._fit.cache_clear()
        known = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        assert type(fast(nn.Conv2d(256, 256, 3))) is (WinogradConv2d if known and winograd._fit() else PackedConv2d)
    finally:
        winograd._fit.cache_clear()
