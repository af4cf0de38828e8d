"""BatchNorm is folded where it follows one convolution, and left alone wherever that would change a number."""

from __future__ import annotations

import copy

import pytest
import torch
from fast_cases import DETECTORS, lively, pictures, same_candidates, small_detector
from timm.layers import BatchNormAct2d, StdConv2d
from torch import nn
from torch.nn.utils import parametrizations

from fusion_det.analysis.fusion_probe import fusion_probe
from fusion_det.detector import Detector
from fusion_det.fast.folding import fold_followers, fold_norms
from fusion_det.fusion.gates import RunningNorm
from fusion_det.layers import StridedConv2d


def conv(inputs: int = 3, outputs: int = 4, **settings) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **settings)


def fold(model: nn.Module, *shapes: tuple[int, ...]) -> list[str]:
    """Folds after a run on inputs of these shapes, and checks that other inputs give the same as before."""
    torch.manual_seed(0)
    lively(model)
    model.eval()
    shapes = shapes or ((2, 3, 8, 8),)
    before = copy.deepcopy(model)
    gone = fold_followers(model, lambda: model(*(torch.randn(shape) for shape in shapes)))
    others = [torch.randn(3, *shape[1:]) for shape in shapes]
    with torch.no_grad():
        torch.testing.assert_close(model(*others), before(*others), rtol=1e-5, atol=1e-5)
    return gone


@pytest.mark.parametrize(
    "layers",
    [
        [conv(bias=False), nn.BatchNorm2d(4)],
        [conv(bias=True), nn.BatchNorm2d(4, eps=0.1), nn.ReLU(inplace=True)],
        [StridedConv2d(3, 4, 3, 2, 1), RunningNorm(4)],
        [conv(), BatchNormAct2d(4, act_layer=nn.SiLU)],
        [conv(6, 6, groups=3), nn.BatchNorm2d(6)],
        [nn.ConvTranspose2d(3, 4, 2, stride=2, bias=False), nn.BatchNorm2d(4)],
        [conv(outputs=6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 4), nn.BatchNorm2d(4)],
    ],
)
def test_it_is_gone_where_it_follows_a_convolution(layers):
    model = nn.Sequential(*layers)
    norms = [str(i) for i, layer in enumerate(layers) if isinstance(layer, nn.BatchNorm2d)]
    assert fold(model, (2, layers[0].in_channels, 8, 8)) == norms
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


class Custom(nn.Module):
    """Two convolutions, two BatchNorms, and a forward pass that the test gives."""

    def __init__(self, forward, **parts) -> None:
        super().__init__()
        self.conv1, self.conv2, self.norm1, self.norm2 = conv(), conv(), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        for name, part in parts.items():
            setattr(self, name, part)
        self.call = forward

    def forward(self, *inputs):
        return self.call(self, *inputs)


def bypassed(m, x):
    """Not called as a module: a folded bias would be missed."""
    return m.norm1(nn.functional.conv2d(x, m.conv1.weight, None, padding=1))


UNSAFE = {
    "one convolution, a norm per level": lambda m, x: (m.norm1(m.conv1(x)), m.norm2(m.conv1(2 * x))),
    "one norm after two convolutions": lambda m, x: m.norm1(m.conv1(x)) + m.norm1(m.conv2(x)),
    "one norm also after something else": lambda m, x: m.norm1(m.conv1(x)) + m.norm1(x[:, :1].expand(-1, 4, -1, -1)),
    "the map is read before": lambda m, x: (lambda y: y.abs() + m.norm1(y))(m.conv1(x)),
    "the map is read afterwards": lambda m, x: (lambda y: m.norm1(y) + y)(m.conv1(x)),
    "the map is changed in between": lambda m, x: m.norm1(m.conv1(x).mul_(2)),
    "a view of the map": lambda m, x: m.norm1(m.conv1(x)[:, :, 1:]),
    "the map is given away": lambda m, x: [m.norm1(y := m.conv1(x)), y],
    "a second call without the norm": lambda m, x: m.norm1(m.conv1(x)) + m.conv1(x - 1),
    "the weights are read elsewhere": lambda m, x: m.norm1(m.conv1(x)) * m.conv1.weight.sum(),
    "the factors are read elsewhere": lambda m, x: m.norm1(m.conv1(x)) * m.norm1.weight.sum(),
    "called as a function": bypassed,
    "an activation in between": lambda m, x: m.norm1(m.conv1(x).relu()),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_it_stays_where_folding_would_be_wrong(case):
    model = Custom(UNSAFE[case], conv1=conv(bias=False)) if UNSAFE[case] is bypassed else Custom(UNSAFE[case])
    assert fold(model) == []
    assert isinstance(model.norm1, nn.BatchNorm2d)


def test_a_pair_that_serves_several_levels_is_folded():
    model = Custom(lambda m, x, y: (m.norm1(m.conv1(x)), m.norm1(m.conv1(y))))
    assert fold(model, (2, 3, 8, 8), (2, 3, 4, 4)) == ["norm1"]


def test_what_the_run_did_not_reach_stays():
    model = Custom(lambda m, x: m.norm2(m.conv2(x)) if x.shape[0] == 2 else m.norm1(m.conv1(x)) + m.norm2(m.conv2(x)))
    assert fold(model) == ["norm2"]
    assert isinstance(model.norm1, nn.BatchNorm2d)


class Doubling(nn.Conv2d):
    def forward(self, input):
        return 2 * super().forward(input)


class Shifted(nn.BatchNorm2d):
    def forward(self, input):
        return super().forward(input) + 1


@pytest.mark.parametrize(
    "parts",
    [
        {"conv1": StdConv2d(3, 4, 3, padding=1)},
        {"conv1": parametrizations.weight_norm(conv())},
        {"conv1": Doubling(3, 4, 3, padding=1)},
        {"norm1": Shifted(4)},
        {"norm1": nn.BatchNorm2d(4, affine=False)},
        {"norm1": nn.BatchNorm2d(4, track_running_stats=False)},
        {"norm1": nn.GroupNorm(2, 4)},
        {"conv1": nn.ConvTranspose2d(3, 6, 3, padding=1, groups=3), "norm1": nn.BatchNorm2d(6)},
    ],
    ids=lambda parts: "+".join(type(part).__name__ for part in parts.values()),
)
def test_other_arithmetic_stays(parts):
    assert fold(Custom(lambda m, x: m.norm1(m.conv1(x)), **parts)) == []


def test_tied_weights_stay():
    model = Custom(lambda m, x: m.norm1(m.conv1(x)) + m.conv2(x))
    model.conv2.weight = model.conv1.weight
    assert fold(model) == []


def test_whoever_watches_a_norm_keeps_it():
    model = Custom(lambda m, x: m.norm1(m.conv1(x)) + m.norm2(m.conv2(x)))
    seen = []
    model.norm1.register_forward_hook(lambda module, args, output: seen.append(output))
    assert fold(model) == ["norm2"]
    assert seen


def test_a_norm_in_training_mode_stays():
    model = Custom(lambda m, x: m.norm1(m.conv1(x)) + m.norm2(m.conv2(x))).eval()
    model.norm1.train()
    assert fold_followers(model, lambda: model(torch.randn(2, 3, 8, 8))) == ["norm2"]


def test_a_norm_that_is_also_held_in_a_list_is_not_applied_twice():
    model = Custom(lambda m, x: m.held[0](m.conv1(x)))
    model.held = [model.norm1]
    assert fold(model) == ["norm1"]


def test_places_memory_format_and_type_are_kept():
    model = lively(Custom(lambda m, x: m.norm1(m.conv1(x)), conv1=conv(8, 4, bias=False)))
    model.again = model.norm1
    model.to(torch.bfloat16, memory_format=torch.channels_last).eval()
    x = torch.randn(2, 8, 6, 6, dtype=torch.bfloat16)
    exact = copy.deepcopy(model).float()(x.float())
    assert fold_followers(model, lambda: model(x)) == ["norm1"]
    assert type(model.norm1) is type(model.again) is nn.Identity
    assert model.conv1.weight.dtype == model.conv1.bias.dtype == torch.bfloat16
    assert model.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x).float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_finds_the_same(name):
    words, left = DETECTORS[name]
    detector = small_detector(words)
    folded = copy.deepcopy(detector)
    assert fold_norms(folded, (64, 64))
    assert {path.split(".")[0] for path, m in folded.named_modules() if isinstance(m, nn.BatchNorm2d)} == left
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in folded.modules())
    for batch in (pictures(2, 64, 64), pictures(1, 70, 101)):
        same_candidates(detector, folded, batch)


def test_probes_see_the_same():
    detector = small_detector(DETECTORS["aff"][0])
    folded = copy.deepcopy(detector)
    fold_norms(folded, (64, 64))
    before, after = (fusion_probe(model, pictures(2, 64, 64)) for model in (detector, folded))
    torch.testing.assert_close(after["neck/M3"].weights, before["neck/M3"].weights, rtol=1e-4, atol=1e-4)


def test_a_detector_in_training_mode_is_refused():
    detector: Detector = small_detector([]).train()
    with pytest.raises(ValueError, match="evaluation mode"):
        fold_norms(detector, (64, 64))
    assert any(isinstance(module, nn.BatchNorm2d) for module in detector.modules())
