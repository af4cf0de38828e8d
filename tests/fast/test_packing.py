"""Packed layers give the same numbers as the layers they stand for, wherever they are called."""

from __future__ import annotations

import copy

import pytest
import torch
from fast_cases import DETECTORS, pictures, same_candidates, small_detector
from torch import nn

from fusion_det.engine.device import autocast
from fusion_det.fast import packing
from fusion_det.fast.packing import PackedConv2d, PackedLinear, pack_layers
from fusion_det.fast.prepare import make_fast
from fusion_det.layers import StridedConv2d

pytestmark = pytest.mark.skipif(not packing._precisions(), reason="this torch has no oneDNN")
CPU = torch.device("cpu")
LAYERS = {
    "conv": (nn.Conv2d(16, 24, 3, padding=1, bias=False), (2, 16, 20, 20)),
    "strided": (StridedConv2d(16, 24, 3, 2, 1), (2, 16, 21, 33)),
    "strided to one pixel": (StridedConv2d(64, 24, 3, 2, 1), (64, 64, 1, 1)),
    "pointwise": (nn.Conv2d(64, 32, 1), (1, 64, 12, 12)),
    "depthwise, dilated": (nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=16), (2, 16, 20, 20)),
    "linear": (nn.Linear(96, 10), (64, 96)),
    "linear over maps": (nn.Linear(96, 10, bias=False), (2, 5, 13, 96)),
}


def packed(layer: nn.Module) -> nn.Module:
    model = nn.Sequential(copy.deepcopy(layer)).eval()
    assert pack_layers(model) == 1
    return model[0]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_same_numbers(name, layout):
    layer, shape = LAYERS[name]
    fast = packed(layer)
    torch.manual_seed(0)
    for repeat in (1, 3):  # weights packed for the first size serve others
        x = torch.randn(shape[0] * repeat, *shape[1:])
        x = x.contiguous(memory_format=layout) if x.dim() == 4 else x
        with torch.no_grad():
            found = fast(x)
            torch.testing.assert_close(found, layer(x), rtol=1e-4, atol=1e-5)
            assert "_packed" in vars(fast), "went the usual way"
            with autocast(CPU, "bf16"):
                low = fast(x)
                assert low.dtype == torch.bfloat16
                torch.testing.assert_close(low, layer(x), rtol=0.03, atol=0.03)
    assert fast(torch.randn(shape)[:0]).shape[0] == 0


def test_gradients_small_inputs_and_other_types_go_the_usual_way():
    layer, shape = LAYERS["conv"]
    fast = packed(layer)
    fast(torch.randn(shape)).sum().backward()
    with torch.no_grad():
        fast(torch.randn(1, 16, 2, 2))
        assert "_packed" not in vars(fast)
        assert fast.double()(torch.randn(shape, dtype=torch.float64)).dtype == torch.float64
    assert fast.weight.grad is not None


def test_new_weights_are_seen_and_names_stay():
    layer, shape = LAYERS["linear"]
    fast, x = packed(layer), torch.randn(shape)
    assert list(fast.state_dict()) == list(layer.state_dict())
    with torch.inference_mode():
        old = fast(x)
    fast.load_state_dict({"weight": 2 * layer.weight, "bias": 2 * layer.bias})
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), 2 * old, rtol=1e-4, atol=1e-5)


def test_a_copy_packs_its_own():
    layer, shape = LAYERS["conv"]
    fast, x = packed(layer), torch.randn(shape)
    with torch.no_grad():
        wanted = fast(x)
        torch.testing.assert_close(copy.deepcopy(fast)(x), wanted)


class Louder(nn.Conv2d):
    def forward(self, input):
        return 2 * super().forward(input)


def test_other_layers_stay_and_shared_ones_stay_shared():
    model = nn.ModuleDict(
        {
            "same": nn.Conv2d(3, 3, 3, padding="same"),
            "mirrored": nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
            "own": Louder(3, 3, 3),
        }
    )
    assert pack_layers(model) == 0
    model["a"] = model["b"] = nn.Conv2d(3, 3, 3)
    assert pack_layers(model) == 1
    assert type(model["a"]) is PackedConv2d
    assert model["a"] is model["b"]


def test_nothing_is_packed_without_onednn(monkeypatch):
    monkeypatch.setattr(packing, "_precisions", lambda: ())
    assert pack_layers(nn.Sequential(nn.Linear(3, 3))) == 0


@pytest.mark.parametrize("name", ["fcos", "faster_rcnn"])
def test_a_fast_detector_finds_the_same(name):
    detector = small_detector(DETECTORS[name][0])
    fast = make_fast(copy.deepcopy(detector), (64, 64))
    kinds = {type(module) for module in fast.modules()}
    assert PackedConv2d in kinds
    assert (PackedLinear in kinds) == (name == "faster_rcnn")
    assert (nn.BatchNorm2d in kinds) == bool(DETECTORS[name][1])
    same_candidates(detector, fast, pictures(2, 64, 96))
    with torch.inference_mode(), autocast(CPU, "bf16"):
        exact, rough = (model.features(pictures(2, 64, 96))[0].float() for model in (detector, fast))
    assert float((rough - exact).abs().mean() / exact.abs().mean()) < 0.03


def test_operators_that_changed_are_not_used(monkeypatch):
    assert packing._agrees(torch.float32)
    right = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *given: right(*given) + 1)
    assert not packing._agrees(torch.float32)

    def refuses(*given):
        raise RuntimeError("expected 5 arguments")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", refuses)
    assert not packing._agrees(torch.float32)
