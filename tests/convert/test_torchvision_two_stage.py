"""torchvision's Faster R-CNN and ours: the same weights give the same proposals' scores and the same final boxes."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision_cases import make_ours, make_theirs

from fusion_det.convert.torchvision_weights import load_state


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"])
def test_same_weights_same_boxes(name):
    theirs, ours = make_theirs(name), make_ours(name, 90)
    # Small shifts: of large ones most boxes are cut to the picture's border, and which of two equal ones suppresses the other is chance.
    theirs.rpn.head.bbox_pred.weight.data.mul_(0.01)
    for layer in (theirs.rpn.head.cls_logits, theirs.roi_heads.box_predictor.bbox_pred, theirs.roi_heads.box_predictor.cls_score):
        layer.weight.data.mul_(0.1)
    assert load_state(ours, name, theirs.state_dict()).whole
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    pixels = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        features = theirs.backbone(pixels)
        images = ImageList(pixels, [(128, 128)])
        logits, deltas = theirs.rpn.head(list(features.values()))
        proposals, _ = theirs.rpn(images, features)
        (expected,), _ = theirs.roi_heads(features, proposals, images.image_sizes)
        maps = ours.neck(ours.backbone(pixels))
        found = ours.late_fusion([ours.head.predict(maps, torch.tensor([[128, 128]]))])
        our_logits, our_deltas = ours.head.rpn(maps)[:2]
    for mine, wanted in ((our_logits.flatten(), logits), (our_deltas.flatten(), deltas)):
        flat = torch.cat([m.permute(0, 2, 3, 1).flatten() for m in wanted])
        assert (mine - flat).abs().max() <= 1e-5 * flat.abs().max().clamp(min=1)
    order = expected["scores"].argsort(descending=True)
    kept = found.valid[0]
    assert len(order) > 20
    assert kept.sum() == len(order)
    torch.testing.assert_close(found.scores[0][kept], expected["scores"][order], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.boxes[0][kept], expected["boxes"][order], rtol=1e-5, atol=1e-3)
    assert torch.equal(found.labels[0][kept] + 1, expected["labels"][order])
