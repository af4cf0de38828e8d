"""torchvision's detectors and ours: the same weights give the same raw outputs and the same final boxes."""

from __future__ import annotations

import pytest
import torch
from torchvision_cases import make_ours, make_theirs, our_outputs, their_outputs

from fusion_det.convert.torchvision_weights import load_state

# 160 and 224 pixels are no multiples of the coarsest strides; SSD300 takes nothing but its own size.
CASES = {
    "retinanet_resnet50_fpn": ((160, 128), 91, 0),
    "retinanet_resnet50_fpn_v2": ((128, 128), 91, 0),
    "fcos_resnet50_fpn": ((160, 224), 91, 0),
    "ssd300_vgg16": ((300, 300), 90, 2048),
}
TOLERANCE = 1e-5


def assert_close(ours, theirs):
    """To 1e-5 of the largest value: with random weights outputs may be far from 1."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max().clamp(min=1)


@pytest.mark.parametrize("name", CASES)
def test_same_weights_same_outputs_and_boxes(name):
    size, classes, extra = CASES[name]
    theirs, ours = make_theirs(name), make_ours(name, classes)
    eps = 0.0 if name == "retinanet_resnet50_fpn" else 1e-5
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = eps
            # Channels that hardly vary, as published networks have them: there the epsilon is all that counts.
            module.running_var.data[:2] = torch.tensor([1e-6, 3e-5])
            module.weight.data[:2] *= 1e-3
    report = load_state(ours, name, theirs.state_dict(), norm_eps=eps)
    assert report.whole
    assert not extra or sum(p.numel() for p in ours.parameters()) == 35_641_826
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(5))
    raw, expected = their_outputs(theirs, pixels)
    outputs, found = our_outputs(ours, pixels)
    deltas = outputs[1]
    assert not extra or deltas.shape[1] == 8732
    if name.startswith("fcos"):
        assert_close(outputs[2], raw["bbox_ctrness"][..., 0])
    assert_close(outputs[0], raw["cls_logits"])
    assert_close(deltas, raw["bbox_regression"])
    first_label = int(name.startswith("ssd"))
    assert sum(len(e["boxes"]) for e in expected) > 20
    for row, one in enumerate(expected):
        kept = found.valid[row]
        assert kept.sum() == len(one["boxes"])
        order = one["scores"].argsort(descending=True)
        torch.testing.assert_close(found.scores[row][kept], one["scores"][order], rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(found.boxes[row][kept], one["boxes"][order], rtol=1e-5, atol=1e-3)
        assert torch.equal(found.labels[row][kept] + first_label, one["labels"][order])
