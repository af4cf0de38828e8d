"""Weights of torchvision's detectors: where the file is, what fits, what is told."""

from __future__ import annotations

import hashlib
import logging

import pytest
import torch
import torchvision
from torch import nn
from torchvision_cases import CONFIGS

from fusion_det.config.cli import load_settings
from fusion_det.config.tools import get_tool
from fusion_det.convert import torchvision_weights
from fusion_det.convert.torchvision_models import MODELS
from fusion_det.convert.torchvision_weights import load_state, load_torchvision
from fusion_det.engine.resume import check_source, initialise_from
from fusion_det.errors import CheckpointError, ConfigError
from fusion_det.necks.weight_maps import rename


def tree(**parts):
    """Modules by dotted name (``__`` for a dot)."""
    root = nn.Module()
    for name, module in parts.items():
        *path, last = name.split("__")
        parent = root
        for step in path:
            if step not in parent._modules:
                parent.add_module(step, nn.Module())
            parent = parent._modules[step]
        parent.add_module(last, module)
    return root


def small_detector(classes=4, net="backbone"):
    return tree(
        **{f"{net}__conv1": nn.Conv2d(3, 4, 1, bias=False), f"{net}__bn1": nn.BatchNorm2d(4)},
        neck__entries__C3__0=nn.Conv2d(4, 4, 1), neck__other=nn.Conv2d(4, 4, 1),
        head__class_logits=nn.Conv2d(4, classes, 1), head__box_distances=nn.Conv2d(4, 4, 1),
    )  # fmt: skip


def small_file(columns=91):
    """Names of ``fcos_resnet50_fpn`` as in an old file, with few channels; BatchNorm as FrozenBatchNorm2d saves it, without counters."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "backbone.body.conv1.weight": [4, 3, 1, 1],
        "backbone.fpn.inner_blocks.0.weight": [4, 4, 1, 1], "backbone.fpn.inner_blocks.0.bias": [4],
        "backbone.fpn.extra_blocks.p6.bias": [4],
        "head.classification_head.cls_logits.weight": [columns, 4, 1, 1], "head.classification_head.cls_logits.bias": [columns],
        "head.regression_head.bbox_reg.weight": [4, 4, 1, 1], "head.regression_head.bbox_reg.bias": [4],
        "head.regression_head.conv.0.weight": [8, 4, 3, 3],
    } | {f"backbone.body.bn1.{part}": [4] for part in ("weight", "bias", "running_mean", "running_var")}  # fmt: skip
    return {name: torch.rand(shape, generator=generator) + 0.5 for name, shape in shapes.items()}


@pytest.mark.parametrize("net", ["backbone", "backbone__net"])
def test_what_fits_is_taken_and_the_rest_is_told(tmp_path, caplog, net):
    found, file = small_file(), tmp_path / "mine.pth"
    torch.save(found, file)
    model = small_detector(net=net)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with caplog.at_level(logging.INFO):
        initialise_from(f"torchvision:fcos_resnet50_fpn:{file}", model, class_names=["cat", "sofa", "dog", "person"])
    after = model.state_dict()
    place = net.replace("__", ".")
    assert torch.equal(after[f"{place}.conv1.weight"], found["backbone.body.conv1.weight"])
    assert torch.equal(after[f"{place}.bn1.running_var"], found["backbone.body.bn1.running_var"])
    assert torch.equal(after["neck.entries.C3.0.bias"], found["backbone.fpn.inner_blocks.0.bias"])
    assert torch.equal(after["neck.other.weight"], before["neck.other.weight"])
    theirs = found["head.classification_head.cls_logits.weight"]
    assert torch.equal(after["head.class_logits.weight"][[0, 2, 3]], theirs[[17, 18, 1]])
    assert torch.equal(after["head.class_logits.weight"][1], before["head.class_logits.weight"][1])
    text = caplog.text
    assert "            matched  constant  missing  other shape  unexpected" in text
    assert "  backbone        5         0        0            0           0" in text
    assert "  neck            2         0        2            0           1" in text
    assert "missing: neck.other.bias, neck.other.weight" in text
    assert "unexpected: neck.extra.convs.0.bias, head.box_tower.0.weight" in text
    assert "3 of 4 taken from the 90 of the file by name, the other 1 keep" in text
    assert f"the same detector as torchvision's is: experiment=null {MODELS['fcos_resnet50_fpn'].words}" in text


def test_another_number_of_classes_leaves_the_classifier_alone():
    model = small_detector(classes=6)
    before = model.state_dict()["head.class_logits.weight"].clone()
    report = load_state(model, "fcos_resnet50_fpn", small_file())
    assert torch.equal(model.state_dict()["head.class_logits.weight"], before)
    assert "classes: the file has 90, this model 6: the classifier keeps its initial weights" in report.notes
    assert "head.class_logits.bias [91] here [6]" in report.reshaped
    assert not report.whole
    report = load_state(small_detector(classes=6), "fcos_resnet50_fpn", small_file(columns=7))
    assert "classes: all 6 taken in order" in report.notes


def test_batchnorm_of_another_epsilon_gives_the_same():
    found, model, x = small_file(), small_detector().eval(), torch.randn(2, 4, 5, 5)
    found["backbone.body.bn1.running_var"] = torch.tensor([1.0, 1e-5, 1e-9, 0.0])
    theirs = torchvision.ops.FrozenBatchNorm2d(4, eps=0.0)
    theirs.load_state_dict({name.rpartition(".")[2]: value for name, value in found.items() if ".bn1." in name})
    report = load_state(model, "fcos_resnet50_fpn", found, norm_eps=0.0)
    torch.testing.assert_close(model.backbone.bn1(x)[:, :3], theirs(x)[:, :3], rtol=1e-5, atol=1e-3)
    assert model.state_dict()["backbone.bn1.weight"].isfinite().all()
    assert "1 BatchNorms were trained with epsilon 0: their weights are scaled to give the same here" in report.notes
    unscaled = small_detector().eval()
    load_state(unscaled, "fcos_resnet50_fpn", found)
    assert (unscaled.backbone.bn1(x) - theirs(x))[:, 2].abs().max() > 1


def test_epsilon_zero_is_for_the_published_file_only(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        torchvision_weights, "load_state", lambda *args, norm_eps, **kwargs: seen.append(norm_eps) or torchvision_weights.LoadReport()
    )
    for file in ("retinanet_resnet50_fpn_coco-eeacb38b.pth", "mine.pth"):
        torch.save(small_file(), tmp_path / file)
        load_torchvision(small_detector(), f"torchvision:retinanet_resnet50_fpn:{tmp_path / file}")
    assert seen == [0.0, 1e-5]


def test_names_of_the_oldest_files_lead_to_the_same_places():
    rules = MODELS["retinanet_resnet50_fpn"].rules
    pairs = {
        "backbone.fpn.inner_blocks.1.weight": "backbone.fpn.inner_blocks.1.0.weight",
        "backbone.fpn.layer_blocks.2.bias": "backbone.fpn.layer_blocks.2.0.bias",
        "head.classification_head.conv.2.weight": "head.classification_head.conv.1.0.weight",
        "head.regression_head.conv.6.bias": "head.regression_head.conv.3.0.bias",
    }
    for old, new in pairs.items():
        assert rename({old: torch.zeros(1)}, rules).keys() == rename({new: torch.zeros(1)}, rules).keys()
    assert list(rename({"head.regression_head.conv.3.1.bias": torch.zeros(1)}, rules)) == ["head.box_tower.10.bias"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "expected a mapping of names to tensors"),
        ({"something.else": torch.zeros(2)}, r"no rule fits \['something.else'\]"),
        ({"backbone.body.layer9.weight": torch.zeros(2)}, "none of the tensors of torchvision's fcos_resnet50_fpn fits this model"),
    ],
)
def test_foreign_files_are_refused_in_one_line(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_torchvision(small_detector(), f"torchvision:fcos_resnet50_fpn:{tmp_path / 'x.pth'}")
    assert "give a state dict of torchvision.models.detection.fcos_resnet50_fpn" in str(caught.value)


def test_the_file_of_torchs_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    with pytest.raises(ConfigError, match=r"init_from: no file fcos_resnet50_fpn_coco-99b0c9b7.pth in .*hub.checkpoints") as caught:
        check_source("torchvision:fcos_resnet50_fpn")
    assert "torchvision.models.detection.fcos_resnet50_fpn(weights='DEFAULT')" in str(caught.value)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(small_file(), tmp_path / "x.pth")
    content = (tmp_path / "x.pth").read_bytes()
    name = f"fcos-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(content)
    monkeypatch.setitem(MODELS, "fcos_resnet50_fpn", MODELS["fcos_resnet50_fpn"]._replace(file=name))
    model = small_detector()
    assert len(load_torchvision(model, "torchvision:fcos_resnet50_fpn").matched) == 9
    assert torch.equal(model.backbone.conv1.weight, small_file()["backbone.body.conv1.weight"])
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match="damaged or another one"):
        check_source("torchvision:fcos_resnet50_fpn")


def test_the_published_names_are_torchvisions():
    for name, model in MODELS.items():
        weights = torchvision.models.get_model_weights(name).DEFAULT
        assert weights.url.endswith(f"/{model.file}")


def test_the_page_of_weights_has_the_words():
    page = (CONFIGS.parent / "docs" / "parity.md").read_text()
    for name, model in MODELS.items():
        assert f"| `{name}` |" in page
        assert f"{name}:\n  {model.words}\n" in page


def test_every_name_of_torchvision_has_a_rule_and_no_two_meet():
    for name, model in MODELS.items():
        with torch.device("meta"):
            state = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None).state_dict()
        assert len(rename(state, model.rules)) == len(state)


def test_the_command_line_refuses_what_cannot_be(tmp_path):
    with pytest.raises(ConfigError, match=r"init_from: no rules for the weights of 'torchvision:yolo' -> use torchvision:MODEL"):
        load_settings(get_tool("train"), ["init_from=torchvision:yolo"], CONFIGS)
    with pytest.raises(ConfigError, match=r"init_from: no such file or folder: nowhere.pth"):
        load_settings(get_tool("train"), ["init_from=torchvision:fcos_resnet50_fpn:nowhere.pth"], CONFIGS)
    file = tmp_path / "a (b) = c.pth"
    file.write_bytes(b"x")
    for source in ("torchvision:fcos_resnet50_fpn", f"torchvision:fcos_resnet50_fpn:{file}"):
        assert load_settings(get_tool("train"), [f"init_from={source}"], CONFIGS).init_from == source
