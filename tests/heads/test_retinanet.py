"""RetinaNet against torchvision's with the same weights."""

from __future__ import annotations

import pytest
import torch
from head_cases import (
    CHANNELS,
    LEVELS,
    SHAPES,
    Stub,
    as_torchvision,
    assert_same_detections,
    image_list,
    make_features,
    make_head,
    make_targets,
    random_batches,
    suppress,
)
from torch import nn
from torchvision.models.detection import retinanet as reference
from torchvision.models.detection.anchor_utils import AnchorGenerator

from fusion_det.structures import LevelSpec


def spread(head):
    """Weights under which many classes pass the score threshold and boxes move."""
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        head.class_logits.weight.copy_(torch.randn(head.class_logits.weight.shape, generator=generator) * 0.3)
        head.box_deltas.weight.copy_(torch.randn(head.box_deltas.weight.shape, generator=generator) * 0.05)
        for tower in (head.class_tower, head.box_tower):
            for layer in tower:
                if isinstance(layer, nn.Conv2d):
                    layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * 0.1)
    return head


def torchvision_twin(ours, classes=5, norm_layer=None, loss="l1"):
    """torchvision's model with the weights of ``ours``, by the rule in RetinaNet's docstring."""
    head = reference.RetinaNetHead(CHANNELS, 9, classes, norm_layer=norm_layer)
    head.regression_head._loss_type = loss
    for part, tower, last, target in (
        (head.classification_head, ours.class_tower, ours.class_logits, head.classification_head.cls_logits),
        (head.regression_head, ours.box_tower, ours.box_deltas, head.regression_head.bbox_reg),
    ):
        target.load_state_dict(last.state_dict())
        for i, block in enumerate(part.conv):
            block[0].weight.data.copy_(tower[3 * i].weight)
            if norm_layer is None:
                block[0].bias.data.copy_(tower[3 * i].bias)
            else:
                tower[3 * i].bias.data.zero_()
                block[1].load_state_dict(tower[3 * i + 1].state_dict())
    return reference.RetinaNet(Stub(), classes, head=head)


def compare(ours, theirs, features, targets):
    outputs = theirs.head(features)
    logits, deltas = ours(features)
    assert torch.allclose(logits, outputs["cls_logits"], atol=1e-5)
    assert torch.allclose(deltas, outputs["bbox_regression"], atol=1e-5)
    anchors = theirs.anchor_generator(image_list(2), features)
    found, expected = ours.losses(features, targets), theirs.compute_loss(as_torchvision(targets), outputs, anchors)
    for mine, name in (("loss_cls", "classification"), ("loss_box", "bbox_regression")):
        assert torch.allclose(found[mine], torch.as_tensor(expected[name]), rtol=1e-4, atol=1e-6), (mine, found[mine], expected[name])
    counts = [h * w * 9 for h, w in SHAPES]
    split = {name: list(value.split(counts, dim=1)) for name, value in outputs.items()}
    split_anchors = [list(a.split(counts)) for a in anchors]
    detections = theirs.postprocess_detections(split, split_anchors, [(128, 128)] * 2)
    final = suppress(ours.predict(features, torch.tensor([[128, 128]] * 2)), iou_threshold=0.5, max_detections=300)
    return assert_same_detections(final, detections)


@torch.no_grad()
def test_twenty_random_batches_equal_torchvision():
    ours = spread(make_head("retinanet")).eval()
    theirs = torchvision_twin(ours).eval()
    found = [compare(ours, theirs, make_features(seed=seed), make_targets(counts, seed=seed)) for seed, counts in random_batches()]
    assert min(found) > 100  # detections were compared in every batch


@torch.no_grad()
def test_second_version_with_groupnorm_and_giou_equals_torchvision():
    ours = spread(make_head("retinanet", norm="gn", box_loss="giou")).eval()
    theirs = torchvision_twin(ours, norm_layer=lambda channels: nn.GroupNorm(16, channels), loss="giou").eval()
    for seed in range(3):
        compare(ours, theirs, make_features(seed=seed), make_targets([6, 2], seed=seed))


@torch.no_grad()
def test_smooth_l1_equals_torchvision():
    ours = spread(make_head("retinanet", box_loss="smooth_l1"))
    compare(ours, torchvision_twin(ours, loss="smooth_l1"), make_features(), make_targets([6, 2]))


def test_parameters_are_those_of_torchvision_head():
    ours = make_head("retinanet", levels=[LevelSpec("P3", 256, 8)], classes=91)
    theirs = reference.RetinaNetHead(256, 9, 91)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("size", [(128, 128), (160, 224)])
def test_anchors_equal_torchvision(size):
    shapes = [(-(-size[0] // level.stride), -(-size[1] // level.stride)) for level in LEVELS]
    maps = [torch.zeros(1, CHANNELS, *shape) for shape in shapes]
    theirs = reference._default_anchorgen()(type(image_list(1))(torch.zeros(1, 3, *size), [size]), maps)[0]
    found = make_head("retinanet", cell_stride="measured").anchors(shapes)
    assert torch.equal(found.boxes, theirs)
    assert found.counts == tuple(9 * h * w for h, w in shapes)
    assert torch.equal(found.levels, torch.repeat_interleave(torch.arange(5), torch.tensor(found.counts)))


def test_average_over_the_batch_divides_by_all_positives():
    features, targets = make_features(), make_targets([6, 0])
    by_image = make_head("retinanet").losses(features, targets)
    by_batch = make_head("retinanet", average="batch").losses(features, targets)
    assert torch.isclose(by_batch["loss_box"], 2 * by_image["loss_box"])  # the empty image has no positives and counts as one half there


def test_anchors_first_made_in_inference_mode_can_be_trained_with():
    head = make_head("retinanet")
    with torch.inference_mode():
        head.predict(make_features(), torch.tensor([[128, 128]] * 2))
    assert not head.anchors(SHAPES).boxes.is_inference()
    assert head.anchors(SHAPES).boxes is head.anchors(SHAPES).boxes  # kept, not made again


def test_given_sizes_must_fit_the_levels():
    with pytest.raises(ValueError, match=r"anchor_sizes for the 5 levels \['P3', .*got \[\[32\.0\]\]"):
        make_head("retinanet", anchor_sizes=[[32.0]])
    generator = AnchorGenerator(((16,), (32,), (64,), (128,), (256,)), ((0.5, 1.0, 2.0),) * 5)
    theirs = generator(image_list(1), make_features(1))[0]
    found = make_head("retinanet", anchor_sizes=[[16.0], [32.0], [64.0], [128.0], [256.0]])
    assert torch.equal(found.anchors(SHAPES).boxes, theirs)


def test_thresholds_must_be_in_order():
    with pytest.raises(ValueError, match="negative_overlap <= positive_overlap"):
        make_head("retinanet", positive_overlap=0.3)
