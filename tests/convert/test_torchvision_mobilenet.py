"""The backbone of torchvision's Faster R-CNN with MobileNetV3: the same maps; its other parts are told to have no place."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision_cases import make_theirs

from fusion_det.backbones.timm_backbone import TimmBackbone
from fusion_det.convert.checkpoint import save_converted
from fusion_det.convert.torchvision_weights import load_state
from fusion_det.errors import ConfigError


def test_maps_of_mobilenet_are_torchvisions():
    theirs, ours = make_theirs("fasterrcnn_mobilenet_v3_large_fpn"), nn.Module()
    for name, tensor in theirs.backbone.body.state_dict().items():  # gates and wide sums keep no scale of their own
        if name.endswith("0.weight"):
            tensor.mul_(0.7)
    ours.backbone = TimmBackbone(
        name="mobilenetv3_large_100", strides=[8, 16, 32], pretrained=False, weights=None, frozen_stages=0, frozen_norm=False
    ).eval()
    report = load_state(ours, "fasterrcnn_mobilenet_v3_large_fpn", theirs.state_dict())
    assert not report.missing
    assert not report.reshaped
    assert {name.split(".")[0] for name in report.unexpected} == {"fpn", "head"}
    x = torch.randn(2, 3, 97, 160)
    with torch.no_grad():
        maps, expected = ours.backbone(x), x
        expected = [expected := layer(expected) for layer in theirs.backbone.body.values()]
    for found, wanted in zip(maps, (expected[6], expected[12], expected[16]), strict=True):
        assert wanted.abs().max() > 0.1
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())


def test_the_whole_detector_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="a part of torchvision's fasterrcnn_mobilenet_v3_large_fpn is not offered here"):
        save_converted("torchvision:fasterrcnn_mobilenet_v3_large_fpn", tmp_path / "x.pt")
