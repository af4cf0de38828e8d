"""FusionResNet: torchvision's ResNet with addition, every operator in its blocks, the paper's sizes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
import yaml

from fusion_det.backbones.fusion_resnet import FusionResNet
from fusion_det.config.instantiate import factory
from fusion_det.fusion.add import Add
from fusion_det.fusion.aff import AFF
from fusion_det.fusion.iaff import IAFF

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
OPERATORS = {file.stem: factory(yaml.safe_load(file.read_text())) for file in sorted((CONFIGS / "fusion").glob("*.yaml"))}
WIDENING = {name for name, operator in OPERATORS.items() if getattr(operator(4, 2), "out_channels", 4) != 4}
BLOCKS = ("basic", "bottleneck", "inception")
RESNET18 = yaml.safe_load((CONFIGS / "backbone" / "fusion_resnet.yaml").read_text()) | {"fusion": {"_target_": "fusion_det.fusion.add.Add"}}
RESNET18.pop("defaults")
SMALL = {"widths": [8, 12], "depths": [1, 2], "stem_width": 8, "first_stride": 4, "join": [1, 2]}
RESNET50 = {"block": "bottleneck", "depths": [3, 4, 6, 3]}


def make(**options):
    fusion = options.pop("fusion", Add)
    keys = {key: value for key, value in (RESNET18 | options).items() if key not in ("_target_", "fusion")}
    return FusionResNet(fusion=fusion, **keys)


def torchvision_maps(net, x):
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    maps = []
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = layer(x)
        maps.append(x)
    return maps


def shuffled(net):
    """``net`` with statistics and affine parameters that are not those of a new BatchNorm."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                torch.nn.init.normal_(tensor, std=0.1)
    return net


def without_fc(net):
    return {name: value for name, value in net.state_dict().items() if not name.startswith("fc.")}


@pytest.mark.parametrize(("name", "options"), [("resnet18", {}), ("resnet50", RESNET50)])
def test_with_addition_it_is_torchvisions(name, options):
    torch.manual_seed(0)
    reference = shuffled(torchvision.models.get_model(name, weights=None)).eval()
    net = make(first_stride=4, **options).eval()
    assert list(net.state_dict()) == list(without_fc(reference))
    net.load_state_dict(without_fc(reference), strict=True)
    x = torch.randn(1, 3, 131, 203)
    with torch.no_grad():
        for found, expected in zip(net(x), torchvision_maps(reference, x), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_gradients_in_training_are_torchvisions():
    torch.manual_seed(0)
    reference = shuffled(torchvision.models.resnet18(weights=None)).train()
    net = make().train()
    net.load_state_dict(without_fc(reference))
    x = torch.randn(2, 3, 64, 96)
    net(x)[-1].square().sum().backward()
    torchvision_maps(reference, x)[-1].square().sum().backward()
    expected = dict(reference.named_parameters())
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-3, rtol=1e-3, msg=name)
    assert torch.equal(net.bn1.running_mean, reference.bn1.running_mean)


def count(**options):
    with torch.device("meta"):
        return sum(p.numel() for p in make(**options).parameters())


def test_parameter_counts():
    """Of the paper's Table 5: AFF-ResNet-50 30.3 M and iAFF-ResNet-50 35.1 M, with a classifier of 2,049,000; their logs say
    ``start_layer=3``, so their first two stages add."""
    assert count(**RESNET50) == 23_508_032  # torchvision's 25,557,032 without its classifier
    paper = RESNET50 | {"join": [3, 4]}
    aff, iaff = (2_049_000 + count(**paper, fusion=partial(operator, reduction=16)) for operator in (AFF, IAFF))
    assert aff == 30_353_960
    assert iaff == 35_150_888
    everywhere = count(**RESNET50, fusion=partial(AFF, reduction=16)) - count(**RESNET50)
    assert everywhere == 3 * 18_016 + 4 * 68_800 + 6 * 268_672 + 3 * 1_061_632


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("name", sorted(OPERATORS.keys() - WIDENING))
def test_every_operator_joins(name, block):
    torch.manual_seed(0)
    net = make(block=block, fusion=OPERATORS[name], **SMALL).to(memory_format=torch.channels_last)
    x = torch.randn(1, 3, 37, 51).contiguous(memory_format=torch.channels_last)
    for mode in ("train", "bf16", "eval"):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16"):
            maps = net.train(mode != "eval")(x)
        assert [tuple(m.shape) for m in maps] == [
            (1, level.channels, *size) for level, size in zip(net.levels, [(10, 13), (5, 7)], strict=True)
        ]
        assert all(m.isfinite().all() for m in maps)
        sum(m.float().square().sum() for m in maps).backward()
        without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
        assert not without, f"{mode}: no good gradient for {without}"
    assert len({id(site.operator) for site in net.fusion_sites()}) == 3


@pytest.mark.parametrize("name", sorted(WIDENING))
def test_operators_that_need_a_block_are_refused(name):
    with pytest.raises(ValueError, match="no block follows to reduce them; use concat"):
        make(fusion=OPERATORS[name], **SMALL)


def test_the_shortcut_is_the_own_input_and_the_operator_comes_before_the_relu():
    class Difference(Add):
        def fuse(self, inputs):
            own, other = inputs
            return own - 3 * other

    net = make(fusion=Difference, widths=[16], depths=[1], join=[1], stem_width=16, first_stride=4, stem="conv7_pool").eval()
    block = net.layer1[0]
    x = torch.randn(1, 16, 9, 9).relu()
    residual = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    assert residual.min() < 0
    torch.testing.assert_close(block(x), (x - 3 * residual).relu())
    branches = make(block="inception", fusion=Difference, widths=[16], depths=[1], join=[1], stem_width=16, first_stride=4).eval().layer1[0]
    small, large = branches.branch3x3, branches.branch5x5
    assert [b[0].kernel_size for b in (small, large)] == [(3, 3), (5, 5)]
    torch.testing.assert_close(branches(x), (small(x) - 3 * large(x)).relu())


def test_sites_and_stages_that_add():
    net = make(fusion=AFF, join=[2, 4], **{key: SMALL[key] for key in ("stem_width",)}, widths=[8, 8, 8, 8], depths=[1, 2, 1, 1])
    sites = net.fusion_sites()
    assert [(s.name, s.level, s.stride) for s in sites] == [("C3.0", "C3", 8), ("C3.1", "C3", 8), ("C5.0", "C5", 32)]
    assert all(isinstance(site.operator, AFF) and site.inputs == ("shortcut", "residual") for site in sites)
    assert {type(net.layer1[0].join), type(net.layer3[0].join)} == {Add}
    assert make(block="inception", fusion=AFF, **SMALL).fusion_sites()[0].inputs == ("3x3", "5x5")
    assert make(fusion=AFF, **(SMALL | {"join": []})).fusion_sites() == []


def test_levels_of_both_stems():
    wide = make(widths=[8, 8, 12, 16], depths=[1, 1, 1, 1], stem_width=8, block="bottleneck")
    assert [(level.name, level.channels, level.stride) for level in wide.levels] == [("C3", 32, 8), ("C4", 48, 16), ("C5", 64, 32)]
    fine = make(widths=[8, 8, 12, 16], depths=[1, 1, 1, 1], stem_width=8, stem="conv3", first_stride=2)
    assert [(level.name, level.stride) for level in fine.levels] == [("C1", 2), ("C2", 4), ("C3", 8), ("C4", 16)]
    for net in (wide, fine):
        for level, found in zip(net.levels, net(torch.randn(2, 3, 131, 203)), strict=True):
            assert tuple(found.shape) == (2, level.channels, -(-131 // level.stride), -(-203 // level.stride))


def test_arms_with_different_operators_share_their_other_weights():
    states = []
    for fusion in (Add, AFF, IAFF):
        torch.manual_seed(3)
        states.append(make(fusion=fusion, **SMALL).state_dict())
    assert all(torch.equal(value, state[name]) for state in states[1:] for name, value in states[0].items())


def test_zero_init_starts_blocks_as_their_shortcuts():
    net = make(zero_init=True, **SMALL).eval()
    x = torch.randn(1, 12, 6, 6).relu()
    assert torch.equal(net.layer2[1](x), x)
    assert not torch.equal(make(**SMALL).eval().layer2[1](x), x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": [8]}, r"widths \[8\] and depths \[1, 2\] differ in length"),
        ({"join": [3]}, r"join \[3\] names stages out of 1 to 2"),
        ({"first_stride": 16}, r"first_stride 16 is not among its strides \[4, 8\]"),
        ({"frozen_stages": 4}, "frozen_stages 4 is more than the stem and its 2 stages"),
        ({"block": "inception", "zero_init": True}, "block inception has none"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        make(**(SMALL | options))


def test_frozen_parts_do_not_learn_but_operators_do():
    torch.manual_seed(0)
    net = make(fusion=AFF, frozen_stages=2, **SMALL).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    sum(m.square().mean() for m in net(torch.randn(2, 3, 64, 64))).backward()
    for name, parameter in net.named_parameters():
        assert (parameter.grad is None) == (name.startswith(("conv1", "bn1", "layer1")) and ".join." not in name)
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(".join." in name or name.startswith("layer2") for name in changed)
    still = make(fusion=AFF, frozen_norm=True, **SMALL).train()
    norms = {name: m for name, m in still.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert all(m.training == (".join." in name) == m.weight.requires_grad for name, m in norms.items())
