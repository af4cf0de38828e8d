"""A convolution takes over the ReLU behind it, and no other."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fusion_det.engine.device import autocast
from fusion_det.fast import packing
from fusion_det.fast.activations import fuse_relus
from fusion_det.fast.packing import pack_layers
from fusion_det.heads.tower import Tower

pytestmark = pytest.mark.skipif(torch.float32 not in packing._precisions(), reason="this torch has no oneDNN")


def conv() -> nn.Conv2d:
    return nn.Conv2d(16, 16, 3, padding=1)


def fused(model: nn.Module) -> tuple[nn.Module, int]:
    model = copy.deepcopy(model).eval()
    pack_layers(model)
    return model, fuse_relus(model)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_maps_without_the_relus(inplace, precision):
    torch.manual_seed(0)
    model = nn.Sequential(
        conv(), nn.ReLU(inplace), nn.MaxPool2d(2), conv(), nn.Identity(), nn.ReLU(inplace), conv(), nn.SiLU(), conv()
    ).eval()
    found, count = fused(model)
    packed, x = copy.deepcopy(model), torch.randn(2, 16, 24, 24)
    pack_layers(packed)
    assert count == 2
    assert sum(isinstance(layer, nn.ReLU) for layer in found) == 0
    with torch.inference_mode(), autocast(torch.device("cpu"), precision):
        assert torch.equal(found(x), packed(x))
    torch.testing.assert_close(found(x), model(x))  # with gradients: the usual way
    found(x).sum().backward()
    assert found[0].weight.grad is not None
    torch.testing.assert_close(copy.deepcopy(found)(x), model(x))


def test_a_tower():
    torch.manual_seed(0)
    tower = Tower(16, 3, "none", 2).eval()
    found, count = fused(tower)
    assert count == 3
    x = torch.randn(2, 16, 24, 24)
    with torch.inference_mode():
        torch.testing.assert_close(found(x, 1), tower(x, 1))


def hooked() -> nn.Module:
    relu = nn.ReLU()
    relu.register_forward_hook(lambda *given: None)
    return nn.Sequential(conv(), relu)


def shared() -> nn.Module:
    one = conv()
    return nn.Sequential(nn.Sequential(one, nn.ReLU()), nn.Sequential(one, nn.SiLU()))


def norm_between() -> nn.Module:
    norm = nn.GroupNorm(2, 16)
    return nn.Sequential(conv(), norm, conv(), norm, nn.ReLU())


class Other(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self[0](x) - self[1](self[0](x))


@pytest.mark.parametrize("model", [hooked(), shared(), norm_between(), Other(conv(), nn.ReLU()), nn.ModuleList([conv(), nn.ReLU()])])
def test_others_keep_theirs(model):
    found, count = fused(model)
    assert count == 0
    assert sum(isinstance(module, nn.ReLU) for module in found.modules()) == 1
