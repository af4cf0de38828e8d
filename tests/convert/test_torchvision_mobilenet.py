"""torchvision's Faster R-CNNs with MobileNetV3 and ours: the same weights give the same outputs, losses and final boxes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.detection.backbone_utils import mobilenet_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou
from torchvision_cases import make_ours, make_theirs

from fusion_det.backbones.timm_backbone import TimmBackbone
from fusion_det.convert.torchvision_models import MODELS
from fusion_det.convert.torchvision_weights import load_state
from fusion_det.necks.weight_maps import rename
from fusion_det.structures import Targets

NAME = "fasterrcnn_mobilenet_v3_large_fpn"
NAMES = [NAME, "fasterrcnn_mobilenet_v3_large_320_fpn"]
PARAMETERS = 19_386_354 + 24_400
"""As torchvision counts the published file, and those of BatchNorm, which it leaves out as they are frozen."""
SHAPE = (160, 224)
"""Height and width: of 5 x 7 cells of stride 32, which the pooled level halves to 3 x 4."""
SIZES = [SHAPE, (131, 190)]
"""Of the pictures; torchvision pads them to multiples of 32."""
ALL = 100_000
"""More anchors or proposals than there are: then what both sides draw is no chance."""
LOSSES = {
    "loss_objectness": "loss_rpn_cls", "loss_rpn_box_reg": "loss_rpn_box", "loss_classifier": "loss_cls", "loss_box_reg": "loss_box",
}  # fmt: skip


def make_pair(name, *words):
    theirs, ours = make_theirs(name), make_ours(name, 90, *words)
    with torch.no_grad():
        for key, tensor in theirs.backbone.body.state_dict().items():  # gates and wide sums keep no scale of their own
            if key.endswith("0.weight"):
                tensor.mul_(0.7)
        # Small shifts: of large ones most boxes are cut to the picture's border, and which of two equal ones suppresses the other is chance
        predictor = theirs.roi_heads.box_predictor
        for layer, scale in ((theirs.rpn.head.bbox_pred, 0.1), (predictor.bbox_pred, 0.5), (predictor.cls_score, 1.25)):
            layer.weight.mul_(scale)
    assert load_state(ours, name, theirs.state_dict()).whole
    return theirs, ours


def make_pixels():
    return torch.randn(2, 3, *SHAPE, generator=torch.Generator().manual_seed(1))


def assert_close(ours, theirs):
    """To 1e-5 of the largest value: with random weights outputs may be far from 1."""
    assert ours.shape == theirs.shape
    assert theirs.abs().max() > 0.1
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max().clamp(min=1)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_same_weights_same_outputs_and_boxes(name):
    theirs, ours = make_pair(name)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) == PARAMETERS
    pixels, images = make_pixels(), ImageList(torch.zeros(2, 3, *SHAPE), SIZES)
    maps, features = ours.neck(ours.backbone(pixels)), theirs.backbone(pixels)
    assert [(level.name, level.stride) for level in ours.neck.levels] == [("P5a", 32), ("P5b", 32), ("P6", 64)]
    for mine, wanted in zip(maps, features.values(), strict=True):
        assert_close(mine, wanted)
    logits, deltas = theirs.rpn.head(list(features.values()))
    our_logits, our_deltas, anchors = ours.head.rpn(maps)
    for mine, wanted in ((our_logits, logits), (our_deltas.flatten(1), deltas)):
        assert_close(mine, torch.cat([m.permute(0, 2, 3, 1).flatten(1) for m in wanted], dim=1))
    assert torch.equal(anchors.boxes, theirs.rpn.anchor_generator(images, list(features.values()))[0])

    proposals, _ = theirs.rpn(images, features)
    assert max(map(len, proposals)) > 100
    pooled = theirs.roi_heads.box_head(theirs.roi_heads.box_roi_pool(features, proposals, SIZES))
    boxes = nn.utils.rnn.pad_sequence(proposals, batch_first=True)
    kept = torch.arange(boxes.shape[1]) < torch.tensor([[len(p)] for p in proposals])
    found_logits, found_shifts, index = ours.head(maps, boxes)
    assert index.max() == 0  # both maps have stride 32, so all boxes go to the first
    for mine, wanted in zip((found_logits, found_shifts.flatten(2)), theirs.roi_heads.box_predictor(pooled), strict=True):
        assert_close(mine[kept], wanted)

    expected, _ = theirs.roi_heads(features, proposals, SIZES)
    found = ours.late_fusion([ours.head.predict(maps, torch.tensor(SIZES))])
    for row, one in enumerate(expected):
        valid = found.valid[row]
        assert len(one["scores"]) == valid.sum() > 50
        same = box_iou(found.boxes[row][valid], one["boxes"]) >= 0.999
        same &= (found.scores[row][valid][:, None] - one["scores"]).abs() <= 1e-4
        same &= found.labels[row][valid][:, None] + 1 == one["labels"]
        # Small boxes at the border look at the same cell: which of two of equal scores suppresses the other is rounding.
        assert (~same.any(dim=0)).sum() <= 4
        assert (~same.any(dim=1)).sum() <= 4


def test_same_weights_same_losses_and_gradients():
    words = [f"head.rpn.samples={ALL}", "head.rpn.positive_share=1.0", f"head.samples={ALL}", "head.positive_share=1.0"]
    words += ["head.rpn.count_train=40"]
    theirs, ours = make_pair(NAME, *words)
    for part in (theirs.rpn, theirs.roi_heads):  # BatchNorm stays as it is, as in torchvision's own training
        part.training = True
        part.fg_bg_sampler.batch_size_per_image, part.fg_bg_sampler.positive_fraction = ALL, 1.0
    theirs.rpn._post_nms_top_n["training"] = 40
    boxes = torch.tensor([[[10.0, 20, 90, 120], [100, 30, 220, 150], [60, 60, 100, 90]], [[5, 5, 150, 100], [0, 0, 0, 0], [0, 0, 0, 0]]])
    valid = torch.tensor([[True, True, True], [True, False, False]])
    labels = torch.tensor([[3, 40, 7], [89, 0, 0]])
    rows = [{"boxes": b[v], "labels": c[v] + 1} for b, c, v in zip(boxes, labels, valid, strict=True)]
    pixels = make_pixels()
    features = theirs.backbone(pixels)
    proposals, expected = theirs.rpn(ImageList(pixels, [SHAPE] * 2), features, rows)
    expected |= theirs.roi_heads(features, proposals, [SHAPE] * 2, rows)[1]
    found = ours.head.losses(ours.neck(ours.backbone(pixels)), Targets(boxes, labels, valid, torch.zeros_like(valid)))
    assert found.keys() == set(LOSSES.values())
    for key, value in expected.items():
        assert value > 1e-3
        torch.testing.assert_close(found[LOSSES[key]], value, rtol=1e-4, atol=0)
    for losses in (found, expected):
        sum(losses.values()).backward()
    pairs = [(ours.neck.entries["C5a"][0], theirs.backbone.fpn.inner_blocks[0][0])]
    pairs += [(ours.neck.blocks["P5b"][0], theirs.backbone.fpn.layer_blocks[1][0])]
    pairs += [(ours.backbone.net.blocks[5][0].conv_pwl, theirs.backbone.body["13"].block[3][0])]
    for mine, other in pairs:
        assert (mine.weight.grad - other.weight.grad).abs().max() < 1e-3 * other.weight.grad.abs().max()


def test_the_backbone_of_the_usual_strides_takes_its_weights():
    theirs, ours = make_theirs(NAME), nn.Module()
    for name, tensor in theirs.backbone.body.state_dict().items():
        if name.endswith("0.weight"):
            tensor.mul_(0.7)
    ours.backbone = TimmBackbone(
        name="mobilenetv3_large_100", strides=[8, 16, 32], pretrained=False, weights=None, frozen_stages=0, frozen_norm=False
    ).eval()
    report = load_state(ours, NAME, theirs.state_dict())
    assert not report.missing
    assert not report.reshaped
    assert {name.split(".")[0] for name in report.unexpected} == {"neck", "head"}
    x = torch.randn(2, 3, 97, 160)
    with torch.no_grad():
        maps, expected = ours.backbone(x), x
        expected = [expected := layer(expected) for layer in theirs.backbone.body.values()]
    for found, wanted in zip(maps, (expected[6], expected[12], expected[16]), strict=True):
        assert_close(found, wanted)


def test_the_same_parts_learn():
    """torchvision trains its three last stages on, and no BatchNorm."""
    with torch.device("meta"):
        body = mobilenet_backbone(backbone_name="mobilenet_v3_large", weights=None, fpn=True, trainable_layers=3).body
        ours = make_ours(NAME, 90).backbone
    learning = {f"backbone.body.{key}": value for key, value in body.named_parameters() if value.requires_grad}
    names = {key.replace("backbone.", "net.", 1) for key in rename(learning, MODELS[NAME].rules)}
    assert len(names) > 20
    assert {key for key, value in ours.named_parameters() if value.requires_grad} == names
