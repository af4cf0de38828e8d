"""torchvision's detectors: which words build the same one here, and what their parameters are called."""

from __future__ import annotations

from typing import NamedTuple

from fusion_det.convert.mobilenet_names import mobilenet_v3_large
from fusion_det.errors import ConfigError

PREFIX = "torchvision:"
"""How ``init_from`` tells torchvision's weights from a checkpoint: ``torchvision:MODEL`` or ``torchvision:MODEL:FILE``."""
Rule = tuple[str, str]
"""Start of their name and of ours, as :func:`fusion_det.necks.weight_maps.rename` reads it."""


class TorchvisionModel(NamedTuple):
    """One function of ``torchvision.models.detection`` and its published weights (COCO, label = category id, 0 is background)."""

    file: str
    """Name of the published file in torch's cache."""
    rules: tuple[Rule, ...]
    """Their names to ours; those of a ResNet's body start with ``backbone.``, before which timm's networks have ``net.``."""
    words: str
    """Overrides, beside ``experiment=null``, that build the same detector."""
    norm_eps: float = 1e-5
    """What the published network adds to BatchNorm's variances; torchvision sets 0 for files older than a change to it."""
    shapes: str = "data.image_size=1344 data.short_side=800"
    """Overrides that resize pictures as torchvision does (800 x 1333; our long sides are multiples of 32)."""
    background: bool = False
    """Whether our classifier has a column for background, as theirs has."""
    boxes_per_class: bool = False
    """Whether there is a box for each class, which is chosen together with it."""
    constants: tuple[tuple[str, float], ...] = ()
    """Parameters of ours (pattern of the name) that theirs is without, and the value that makes them do nothing."""


_RESNET = ("backbone.body", "backbone")
_RESNET_WORDS = "backbone=fusion_resnet backbone.block=bottleneck backbone.depths=[3,4,6,3] backbone.frozen_stages=2"


def _fpn(first: int) -> tuple[Rule, ...]:
    """A pyramid whose finest level is C2 or C3."""
    extra = ("backbone.fpn.extra_blocks.p6", "neck.extra.convs.0"), ("backbone.fpn.extra_blocks.p7", "neck.extra.convs.1")
    return (*_fpn_level("{i}", f"{{i+{first}}}"), *extra)


def _fpn_level(theirs: str, ours: str) -> tuple[Rule, ...]:
    """A level of a pyramid, such as 0 and 5a; the oldest files were written before its convolutions stood in sequences."""
    return (
        (f"backbone.fpn.inner_blocks.{theirs}.1", f"neck.entries.C{ours}.1"),
        (f"backbone.fpn.inner_blocks.{theirs}.0", f"neck.entries.C{ours}.0"),
        (f"backbone.fpn.inner_blocks.{theirs}", f"neck.entries.C{ours}.0"),
        (f"backbone.fpn.layer_blocks.{theirs}.1", f"neck.blocks.P{ours}.1"),
        (f"backbone.fpn.layer_blocks.{theirs}.0", f"neck.blocks.P{ours}.0"),
        (f"backbone.fpn.layer_blocks.{theirs}", f"neck.blocks.P{ours}.0"),
    )


def _retinanet_tower(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Four times convolution, norm (second version only), ReLU; older files count every ReLU."""
    new = tuple((f"{theirs}.{i}.{part}", f"{ours}.{3 * i + part}") for i in range(4) for part in (0, 1))
    return new + tuple((f"{theirs}.{2 * i}", f"{ours}.{3 * i}") for i in range(4))


_RETINANET: tuple[Rule, ...] = (
    _RESNET,
    *_fpn(3),
    *_retinanet_tower("head.classification_head.conv", "head.class_tower"),
    *_retinanet_tower("head.regression_head.conv", "head.box_tower"),
    ("head.classification_head.cls_logits", "head.class_logits"),
    ("head.regression_head.bbox_reg", "head.box_deltas"),
)
_FCOS: tuple[Rule, ...] = (
    _RESNET,
    *_fpn(3),
    ("head.classification_head.conv", "head.class_tower"),
    ("head.regression_head.conv", "head.box_tower"),
    ("head.classification_head.cls_logits", "head.class_logits"),
    ("head.regression_head.bbox_reg", "head.box_distances"),
    ("head.regression_head.bbox_ctrness", "head.centerness"),
)
_SSD300: tuple[Rule, ...] = (
    ("backbone.features", "backbone.features"),
    ("backbone.scale_weight", "neck.entries.C3.0.scale"),
    ("backbone.extra.0.7.1", "backbone.fc6"),
    ("backbone.extra.0.7.3", "backbone.fc7"),
    ("backbone.extra.0.{i}", "backbone.features.{i+23}"),
    ("backbone.extra.{i}.0", "neck.extra.stages.{i-1}.0.0"),
    ("backbone.extra.{i}.2", "neck.extra.stages.{i-1}.1.0"),
    ("head.classification_head.module_list", "head.class_logits"),
    ("head.regression_head.module_list", "head.box_deltas"),
)
_FASTER_RCNN: tuple[Rule, ...] = (
    ("rpn.head.conv.0.0", "head.rpn.convs.0"),
    ("rpn.head.conv.1.0", "head.rpn.convs.2"),
    ("rpn.head.conv", "head.rpn.convs.0"),
    ("rpn.head.cls_logits", "head.rpn.objectness"),
    ("rpn.head.bbox_pred", "head.rpn.deltas"),
    ("roi_heads.box_head.fc6", "head.box_head.linears.0"),
    ("roi_heads.box_head.fc7", "head.box_head.linears.2"),
    *((f"roi_heads.box_head.{i}.{part}", f"head.box_head.convs.{3 * i + part}") for i in range(4) for part in (0, 1)),
    ("roi_heads.box_head.5", "head.box_head.linears.0"),
    ("roi_heads.box_predictor.cls_score", "head.class_logits"),
    ("roi_heads.box_predictor.bbox_pred", "head.box_deltas"),
)
_MOBILENET: tuple[Rule, ...] = (
    *mobilenet_v3_large("backbone.body", "backbone"), *_fpn_level("0", "5a"), *_fpn_level("1", "5b"), *_FASTER_RCNN
)  # fmt: skip
_FASTER_WORDS = (
    "neck=fpn neck.extra.count=1 head=faster_rcnn head.rpn.cell_stride=measured "
    "late_fusion.iou_threshold=0.5 late_fusion.max_detections=100"
)
_MOBILENET_WORDS = (
    "backbone=mobilenetv3 backbone.strides=[32,32] backbone.pretrained=false backbone.frozen_stages=3 backbone.frozen_norm=true "
    f"{_FASTER_WORDS} head.rpn.anchor_sizes=[{','.join(3 * ['[32,64,128,256,512]'])}] head.rpn.score_threshold=0.05"
)
_RETINANET_WORDS = "head=retinanet head.cell_stride=measured late_fusion.iou_threshold=0.5 late_fusion.max_detections=300"

MODELS: dict[str, TorchvisionModel] = {
    "retinanet_resnet50_fpn": TorchvisionModel(
        "retinanet_resnet50_fpn_coco-eeacb38b.pth",
        _RETINANET,
        f"{_RESNET_WORDS} backbone.frozen_norm=true neck=fpn neck.extra.count=2 neck.extra.kind=conv_on_output {_RETINANET_WORDS}",
        norm_eps=0.0,
    ),
    "retinanet_resnet50_fpn_v2": TorchvisionModel(
        "retinanet_resnet50_fpn_v2_coco-5905b1c5.pth",
        _RETINANET,
        f"{_RESNET_WORDS} neck=fpn neck.extra.count=2 neck.extra.kind=conv_on_input {_RETINANET_WORDS} head.norm=gn head.box_loss=giou",
        constants=((r"head\.(class|box)_tower\.\d+\.bias", 0.0),),
    ),
    "fcos_resnet50_fpn": TorchvisionModel(
        "fcos_resnet50_fpn_coco-99b0c9b7.pth",
        _FCOS,
        f"{_RESNET_WORDS} backbone.frozen_norm=true neck=fpn neck.extra.count=2 neck.extra.kind=conv_on_output "
        "head=fcos head.point_offset=0.0 head.cell_stride=measured head.distance=relu head.box_weight=uniform "
        "head.score_threshold=0.2 late_fusion.iou_threshold=0.6 late_fusion.max_detections=100",
        constants=((r"head\.scales\.\d+\.scale", 1.0),),
    ),
    "fasterrcnn_resnet50_fpn": TorchvisionModel(
        "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
        (_RESNET, *_fpn(2), *_FASTER_RCNN),
        f"{_RESNET_WORDS} backbone.frozen_norm=true backbone.first_stride=4 {_FASTER_WORDS}",
        norm_eps=0.0,
        background=True,
        boxes_per_class=True,
    ),
    "fasterrcnn_resnet50_fpn_v2": TorchvisionModel(
        "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
        (_RESNET, *_fpn(2), *_FASTER_RCNN),
        f"{_RESNET_WORDS} backbone.first_stride=4 {_FASTER_WORDS} neck.entry.norm=bn block=conv_bn head.rpn.num_convs=2 "
        "head.box_head.convs=4 head.box_head.norm=bn head.box_head.linears=1",
        background=True,
        boxes_per_class=True,
    ),
    "fasterrcnn_mobilenet_v3_large_fpn": TorchvisionModel(
        "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth",
        _MOBILENET,
        _MOBILENET_WORDS,
        background=True,
        boxes_per_class=True,
    ),
    "fasterrcnn_mobilenet_v3_large_320_fpn": TorchvisionModel(
        "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth",
        _MOBILENET,
        f"{_MOBILENET_WORDS} head.rpn.per_level_test=150 head.rpn.count_test=150",
        shapes="data.image_size=640 data.short_side=320",
        background=True,
        boxes_per_class=True,
    ),
    "ssd300_vgg16": TorchvisionModel(
        "ssd300_vgg16_coco-b556d3b4.pth",
        _SSD300,
        "backbone=vgg16 backbone.pixels=caffe backbone.frozen_stages=1 neck=ssd neck.widths=1.0 neck.extra.widths=[512,256,256,256] "
        "neck.extra.unpadded=2 head=ssd head.clip=size late_fusion.iou_threshold=0.45 late_fusion.max_detections=200",
        shapes="data.image_size=300 data.stretch=true",
        background=True,
    ),
}


def split_source(source: str, *, where: str) -> tuple[str, str]:
    """MODEL and FILE of ``torchvision:MODEL:FILE``; FILE is empty where there is none. ``ConfigError`` for a model without rules."""
    name, _, file = source.removeprefix(PREFIX).partition(":")
    if not source.startswith(PREFIX) or name not in MODELS:
        fault = f"no rules for the weights of {source!r}"
        raise ConfigError(fault, where=where, mend=f"use {PREFIX}MODEL or {PREFIX}MODEL:FILE; MODEL is one of {', '.join(MODELS)}")
    return name, file
