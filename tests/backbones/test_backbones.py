"""The contract of backbones, freezing, weights, and refusals that say what to do."""

from __future__ import annotations

import hashlib

import pytest
import timm
import torch

from fusion_det.backbones import weights as weights_module
from fusion_det.backbones.timm_backbone import TimmBackbone
from fusion_det.backbones.tiny import TinyNet
from fusion_det.errors import CheckpointError, ConfigError, FusionDetError

OPTIONS = {"strides": [8, 16, 32], "pretrained": False, "weights": None, "frozen_stages": 0, "frozen_norm": False}


def make(name="resnet10t", **options):
    return TimmBackbone(name=name, **(OPTIONS | options))


# Families of different kinds: plain ResNet, inverted residuals, layer scale in parents of leaves, NHWC features, only three pyramid levels.
@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "convnext_atto", "mambaout_femto", "tf_efficientnet_lite0"])
def test_levels_tell_the_truth(name):
    backbone = make(name).train()
    maps = backbone(torch.randn(2, 3, 96, 160))
    assert [level.name for level in backbone.levels] == ["C3", "C4", "C5"]
    for level, feature in zip(backbone.levels, maps, strict=True):
        assert tuple(feature.shape) == (2, level.channels, 96 // level.stride, 160 // level.stride)
    sum(m.square().mean() for m in maps).backward()
    assert all(p.grad is not None for p in next(iter(backbone.children())).parameters() if p.requires_grad)


def test_strides_choose_the_levels():
    backbone = make(strides=[4, 16])
    assert [(level.name, level.stride) for level in backbone.levels] == [("C2", 4), ("C4", 16)]
    assert [tuple(m.shape[-2:]) for m in backbone(torch.randn(1, 3, 64, 96))] == [(16, 24), (4, 6)]


# DLA and TResNet leave out their first map by default; ResNeSt has BatchNorm on pooled maps, which one picture cannot train.
@pytest.mark.parametrize("name", ["dla34", "tresnet_m", "resnest14d"])
def test_levels_tell_the_truth_where_families_count_their_maps_differently(name):
    with torch.device("meta"):
        backbone = make(name).eval()
        maps = backbone(torch.empty(1, 3, 96, 160))
    found = [tuple(m.shape) for m in maps]
    assert found == [(1, level.channels, 96 // level.stride, 160 // level.stride) for level in backbone.levels]
    assert [level.stride for level in backbone.levels] == [8, 16, 32]


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "tf_efficientnet_lite0"])
def test_frozen_stages_have_no_gradient_and_keep_their_statistics(name):
    torch.manual_seed(0)
    free, frozen = make(name), make(name, frozen_stages=2)
    held = {key for key, p in frozen.named_parameters() if not p.requires_grad}
    learning = {key for key, p in frozen.named_parameters() if p.requires_grad}
    assert held
    assert learning
    assert {key for key, _ in free.named_parameters()} == held | learning
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    frozen.train()
    maps = frozen(torch.randn(2, 3, 64, 64))
    sum(m.square().mean() for m in maps).backward()
    changed = {key for key, value in frozen.state_dict().items() if not torch.equal(value, before[key])}
    modules = {key.rsplit(".", 1)[0] for key in held}
    assert not {key for key in changed if key.rsplit(".", 1)[0] in modules}
    assert all(p.grad is None for key, p in frozen.named_parameters() if key in held)


def test_frozen_norm_keeps_all_statistics():
    backbone = make(frozen_norm=True).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items() if "running" in key}
    backbone(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(backbone.state_dict()[key], value) for key, value in before.items())
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(p.requires_grad for m in norms for p in m.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet5"}, "timm has no model 'resnet5' -> did you mean resnet"),
        ({"name": "vit_tiny_patch16_224"}, "plain transformer: all its maps have stride 16"),
        ({"name": "swin_tiny_patch4_window7_224"}, "does not take pictures of any size"),
        ({"strides": [8, 64]}, "has no stride [64] -> use strides out of [2, 4, 8, 16, 32]"),
        ({"strides": [16, 8]}, "do not grow"),
        ({"frozen_stages": 9}, "has 5 stages, got 9"),
        ({"pretrained": True, "weights": "/nowhere/x.pth"}, "no such file '/nowhere/x.pth'"),
        ({"pretrained": True, "weights": "package:other"}, "no weight package 'other' for resnet10t"),
    ],
)
def test_refusals_name_key_and_remedy(options, message):
    with pytest.raises(ConfigError) as refused:
        make(**options)
    assert refused.value.exit_code == 2
    assert message in str(refused.value)
    assert str(refused.value).startswith("backbone.")


def test_weights_from_a_file(tmp_path):
    source = timm.create_model("resnet10t", pretrained=False)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    backbone = make(pretrained=True, weights=str(tmp_path / "w.pth"))
    found, expected = backbone.net.state_dict(), source.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


def test_damaged_and_foreign_weight_files_are_refused(tmp_path):
    (tmp_path / "bad.pth").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match="does not hold weights of resnet10t"):
        make(pretrained=True, weights=str(tmp_path / "bad.pth"))
    torch.save(timm.create_model("mobilenetv3_small_050", pretrained=False).state_dict(), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="does not hold weights of resnet10t"):
        make(pretrained=True, weights=str(tmp_path / "other.pth"))


def test_no_hub_gives_one_line_with_a_way_out(monkeypatch):
    real = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise ConnectionError("no route\nto host")
        return real(name, pretrained=pretrained, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(weights_module, "_hub_answers", lambda: False)
    with pytest.raises(FusionDetError, match=r"no pre-trained weights for resnet10t .*backbone.pretrained=false") as refused:
        make(pretrained=True)
    assert len(refused.value.lines) == 1


def test_weight_package_is_matched_by_position_and_checked(tmp_path, monkeypatch):
    model = "tf_efficientnet_lite0"
    source = timm.create_model(model, pretrained=False).state_dict()
    package = tmp_path / "stand_in_weights"
    package.mkdir()
    (package / "__init__.py").write_text("")
    torch.save({f"other_name_{i}": value for i, value in enumerate(source.values())}, package / "w.pth")
    digest = hashlib.sha256((package / "w.pth").read_bytes()).hexdigest()
    entry = weights_module.WeightPackage("stand-in", "stand_in_weights", "w.pth", digest, model)
    monkeypatch.setitem(weights_module.PACKAGES, "stand-in", entry)
    with pytest.raises(FusionDetError, match="stand-in is not installed"):
        make(model, pretrained=True, weights="package:stand-in")
    monkeypatch.syspath_prepend(str(tmp_path))
    backbone = make(model, pretrained=True, weights="package:stand-in")
    assert all(torch.equal(value, source[key]) for key, value in backbone.net.state_dict().items())
    (package / "w.pth").write_bytes((package / "w.pth").read_bytes() + b"x")
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        make(model, pretrained=True, weights="package:stand-in")


@pytest.mark.parametrize("size", [(131, 203), (160, 160), (32, 64)])
def test_tiny_takes_any_size(size):
    net = TinyNet(stem_width=4, widths=[4, 6, 8, 10], depths=[1, 2, 1, 1], first_stride=8)
    maps = net(torch.randn(1, 3, *size))
    for level, feature in zip(net.levels, maps, strict=True):
        assert feature.shape[1] == level.channels
        assert tuple(feature.shape[-2:]) == tuple(-(-side // level.stride) for side in size)


def test_tiny_refuses_levels_that_it_has_not():
    with pytest.raises(ValueError, match="first_stride 64 is not among"):
        TinyNet(stem_width=4, widths=[4, 4], depths=[1, 1], first_stride=64)
    with pytest.raises(ValueError, match="differ in length"):
        TinyNet(stem_width=4, widths=[4, 4], depths=[1], first_stride=4)
