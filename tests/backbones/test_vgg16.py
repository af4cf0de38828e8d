"""VGG16: torchvision's numbers and names, the taps of each paper, odd sizes, and weights from files."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from torch.nn import functional as F
from torchvision.models.detection import ssd300_vgg16

from fusion_det.backbones import vgg16_weights
from fusion_det.backbones.vgg16 import VGG16
from fusion_det.backbones.vgg16_weights import fit_names
from fusion_det.build import dry_run
from fusion_det.config.cli import load_settings
from fusion_det.config.tools import get_tool
from fusion_det.errors import CheckpointError, ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
KEYS = yaml.safe_load((CONFIGS / "backbone" / "vgg16.yaml").read_text())
KEYS.pop("_target_")
PAPERS = {
    "ssd": (["conv4_3", "fc7"], [("C3", 512, 8), ("C4", 1024, 16)]),
    "ion": (["conv3_3", "conv4_3", "conv5_3"], [("C2", 256, 4), ("C3", 512, 8), ("C4", 512, 16)]),
    "hypernet": (["conv1_2", "conv3_3", "conv5_3"], [("C0", 64, 1), ("C2", 256, 4), ("C4", 512, 16)]),
    "mscnn": (["conv4_3", "conv5_3"], [("C3", 512, 8), ("C4", 512, 16)]),
}


def make(**options):
    return VGG16(**(KEYS | options)).eval()


@pytest.fixture(scope="module")
def theirs():
    """torchvision's convolutions; its linear layers, 120 million numbers, stay without memory."""
    torch.manual_seed(0)
    with torch.device("meta"):
        net = torchvision.models.vgg16(weights=None)
    features = net.features.to_empty(device="cpu").eval()
    for layer in features:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
            torch.nn.init.normal_(layer.bias, std=0.1)
    return features


@pytest.mark.parametrize(("name", "size"), [("ssd", (96, 64)), ("ion", (64, 96)), ("hypernet", (65, 50)), ("mscnn", (64, 64))])
def test_taps_of_each_paper_are_torchvisions_maps(theirs, name, size):
    taps, levels = PAPERS[name]
    net = make(taps=taps, ceil_pools=[])
    assert [tuple(level) for level in net.levels] == levels
    net.features.load_state_dict({k: v for k, v in theirs.state_dict().items() if k in net.features.state_dict()})
    x = torch.randn(2, 3, *size)
    places = {"conv1_2": 3, "conv3_3": 15, "conv4_3": 22, "conv5_3": 29}
    with torch.no_grad():
        for tap, found in zip(taps, net(x), strict=True):
            if tap in places:
                assert torch.equal(found, theirs[: places[tap] + 1](x))
            else:
                dense = F.max_pool2d(theirs[:30](x), 3, 1, 1)
                fc6 = F.relu(F.conv2d(dense, net.fc6.weight, net.fc6.bias, padding=6, dilation=6))
                assert torch.equal(found, F.relu(F.conv2d(fc6, net.fc7.weight, net.fc7.bias)))


def test_it_is_the_backbone_of_torchvisions_ssd300():
    with torch.device("meta"):
        theirs = ssd300_vgg16(weights=None, weights_backbone=None).backbone
        ours = VGG16(**KEYS)
    theirs, ours = theirs.to_empty(device="cpu").eval(), ours.to_empty(device="cpu").eval()
    torch.manual_seed(1)
    for tensor in theirs.parameters():
        torch.nn.init.normal_(tensor, std=0.03)
    names = {"features.24": "extra.0.1", "features.26": "extra.0.3", "features.28": "extra.0.5", "fc6": "extra.0.7.1", "fc7": "extra.0.7.3"}
    state = {k: v for k, v in theirs.state_dict().items() if k.startswith("features.")}
    state |= {f"{mine}.{p}": theirs.state_dict()[f"{other}.{p}"] for mine, other in names.items() for p in ("weight", "bias")}
    ours.load_state_dict(state)
    x = torch.randn(1, 3, 100, 139)
    with torch.no_grad():
        conv4, fc7 = ours(x)
        expected = theirs.features(x)
        assert torch.equal(conv4, expected)
        assert torch.equal(fc7, theirs.extra[0](expected))
    # 100 -> 50 -> 25 -> 13, where the other poolings round down: 139 -> 69 -> 34 -> 17 -> 8.
    assert (tuple(conv4.shape[2:]), tuple(fc7.shape[2:])) == ((13, 17), (6, 8))


def test_parameters_are_as_many_as_published():
    with torch.device("meta"):
        convolutions = sum(p.numel() for p in VGG16(**(KEYS | {"taps": ["conv5_3"]})).parameters())
        everything = VGG16(**KEYS)
    assert convolutions == 14_714_688  # torchvision.models.vgg16().features
    assert sum(p.numel() for p in everything.fc6.parameters()) == 9 * 512 * 1024 + 1024
    assert sum(p.numel() for p in everything.parameters()) == convolutions + 4_719_616 + 1_049_600


@pytest.mark.parametrize(
    ("ceil_pools", "rows"), [([], [300, 150, 75, 37, 18]), ([3], [300, 150, 75, 38, 19]), ([1, 2, 3, 4, 5], [300, 150, 75, 38, 19])]
)
def test_sizes_of_a_picture_of_300_pixels(ceil_pools, rows):
    with torch.device("meta"):
        net = make(taps=["conv1_2", "conv2_2", "conv3_3", "conv4_3", "fc7"], ceil_pools=ceil_pools)
        maps = net(torch.empty(1, 3, 300, 300))
    assert [m.shape[2] for m in maps] == rows


def test_without_the_dense_pooling_fc7_has_stride_32_and_sees_as_far():
    with torch.device("meta"):
        net = make(taps=["conv5_3", "fc7"], dense_pool5=False)
        assert [m.shape[2] for m in net(torch.empty(1, 3, 320, 320))] == [20, 10]
    assert net.levels[-1].stride == 32
    assert (net.fc6.dilation, make(taps=["fc6"]).fc6.dilation) == ((3, 3), (6, 6))


def test_training_reaches_every_parameter_and_bf16_stays_close():
    net = make(taps=["conv2_2", "conv4_3", "fc7"]).train()
    x = torch.randn(2, 3, 49, 67)
    maps = net(x)
    sum(m.mean() for m in maps).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        rough = net(x)
    for exact, found in zip(maps, rough, strict=True):
        assert found.dtype == torch.bfloat16
        assert (found.float() - exact).abs().max() <= 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    ("words", "strides"),
    [
        (
            "neck=ssd neck.widths=1.0 neck.extra.widths=[512,256,256,256] neck.extra.unpadded=2 head=ssd data.image_size=384",
            [8, 16, 32, 64, 128, 256],
        ),
        ("neck=ion_paper backbone.taps=[conv3_3,conv4_3,conv5_3]", [4]),
        ("neck=hypernet_paper backbone.taps=[conv1_2,conv3_3,conv5_3] neck.topology.stride=4", [4]),
        ("neck=mscnn backbone.taps=[conv4_3,conv5_3] neck.extra.count=2 neck.extra.convolved=1", [8, 16, 32, 64]),
    ],
)
def test_the_neck_of_each_paper_takes_its_levels(words, strides):
    settings = load_settings(get_tool("train"), ["backbone=vgg16", "experiment=null", *words.split()], CONFIGS).plain()
    found = dry_run(settings)
    assert [level.stride for level in found.levels] == strides
    assert found.sizes is not None


def test_frozen_stages():
    held = {name for name, p in make(frozen_stages=2).named_parameters() if not p.requires_grad}
    assert held == {f"features.{i}.{p}" for i in (0, 2, 5, 7) for p in ("weight", "bias")}
    assert not any(p.requires_grad for p in make(taps=["fc6"], frozen_stages=6).parameters())
    assert {name for name, p in make(frozen_stages=5).named_parameters() if p.requires_grad} == {
        "fc6.weight", "fc6.bias", "fc7.weight", "fc7.bias",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"taps": ["conv5_3", "fc7"]}, "the strides of its taps must grow, but conv5_3 has 16, fc7 has 16"),
        ({"taps": ["fc7", "conv4_3"]}, "must grow"),
        ({"taps": []}, "at least one tap"),
        ({"ceil_pools": [0]}, r"ceil_pools \[0\]"),
        ({"frozen_stages": 7}, "more than its 6 stages"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def classifier(**changes):
    """torchvision's linear layers: every weight is the number of its input, every bias that of its output."""
    return {
        "classifier.0.weight": torch.arange(512 * 49.0).expand(4096, -1), "classifier.0.bias": torch.arange(4096.0),
        "classifier.3.weight": torch.arange(4096.0).expand(4096, -1), "classifier.3.bias": torch.arange(4096.0),
        "classifier.6.bias": torch.zeros(1000),
    } | changes  # fmt: skip


def test_linear_layers_are_thinned_out(caplog):
    state = fit_names(classifier())
    assert state["fc6.weight"].shape == (1024, 512, 3, 3)
    # Row 3 and column 6 of the 7 x 7 pixels of channel 5 are our row 1 and column 2.
    assert (state["fc6.weight"][:, 5, 1, 2] == 5 * 49 + 3 * 7 + 6).all()
    assert state["fc7.weight"].shape == (1024, 1024, 1, 1)
    assert torch.equal(state["fc7.weight"][9].flatten(), 4 * torch.arange(1024.0))
    first_of_outputs = torch.arange(4096.0)[:, None]
    thinned = fit_names(classifier(**{"classifier.3.weight": first_of_outputs.expand(-1, 4096)}))
    assert torch.equal(thinned["fc7.weight"][:, 9].flatten(), 4 * torch.arange(1024.0))
    thinned = fit_names(classifier(**{"classifier.0.weight": first_of_outputs.expand(-1, 512 * 49)}))
    assert torch.equal(thinned["fc6.weight"][:, 0, 0, 0], 4 * torch.arange(1024.0))
    assert torch.equal(state["fc6.bias"], state["fc7.bias"])
    assert torch.equal(state["fc6.bias"], 4 * torch.arange(1024.0))
    with caplog.at_level(logging.INFO):
        broken = fit_names(classifier(**{"classifier.0.bias": torch.full((4096,), torch.nan)}))
    assert "fc6.weight" not in broken
    assert "fc6 and fc7 keep their initial weights" in caplog.text


@pytest.fixture(scope="module")
def weight_file(tmp_path_factory):
    """The convolutions up to conv2_2 as torchvision names them, and one that the network below does not have."""
    torch.manual_seed(3)
    state = make(taps=["conv2_2"]).state_dict() | {"features.10.weight": torch.zeros(1), "classifier.6.bias": torch.zeros(3)}
    path = tmp_path_factory.mktemp("vgg") / "vgg.pth"
    torch.save(state, path)
    return path


def test_a_file_is_loaded_as_deep_as_the_network_goes(weight_file, tmp_path):
    state = torch.load(weight_file, weights_only=True)
    net = make(taps=["conv2_2"], weights=str(weight_file))
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(make(taps=["conv1_1"], weights=str(weight_file)).features[0].weight, state["features.0.weight"])
    torch.save(
        {name.removeprefix("features."): value for name, value in state.items() if "classifier" not in name}, tmp_path / "reduced.pth"
    )
    again = make(taps=["conv2_2"], weights=str(tmp_path / "reduced.pth"))
    assert torch.equal(again.features[7].weight, state["features.7.weight"])
    with pytest.raises(CheckpointError, match=r"the file lacks features.10.bias, .* -> use a state dict of VGG16"):
        make(taps=["conv3_3"], weights=str(weight_file))


def test_weights_of_torchs_cache(weight_file, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    with pytest.raises(
        ConfigError, match=r"backbone.weights: no file vgg16-397923af.pth in .*checkpoints, and nothing is downloaded"
    ) as caught:
        make(weights="torchvision")
    assert "torchvision.models.vgg16(weights='IMAGENET1K_V1')" in caught.value.mend
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    content = weight_file.read_bytes()
    (folder / "vgg16_features-amdegroot-88682ab5.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="its SHA-256 is not that of its name"):
        make(pixels="caffe", taps=["conv2_2"], weights="torchvision")
    name = f"vgg16-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(content)
    monkeypatch.setitem(vgg16_weights.CACHED, "imagenet", (name, "fetch"))
    net = make(taps=["conv2_2"], weights="torchvision")
    assert torch.equal(net.features[7].weight, torch.load(weight_file, weights_only=True)["features.7.weight"])
