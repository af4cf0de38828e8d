"""torchvision's detectors with random weights, and ours built by the words of the table."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from torchvision.models.detection.image_list import ImageList

from fusion_det.build import build_detector
from fusion_det.config.cli import load_settings
from fusion_det.config.tools import get_tool
from fusion_det.convert.torchvision_models import MODELS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def make_theirs(name, seed=0, **options):
    """torchvision's detector; weights and statistics of BatchNorm are random, classes lively enough to find something."""
    with torch.device("meta"):
        net = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None, **options)
    net = net.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in net.state_dict().items():
        if tensor.ndim in (2, 4):
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        elif key.endswith("num_batches_tracked"):
            tensor.zero_()
        elif key.endswith(("weight", "running_var")):
            scale = 20.0 if "scale_weight" in key else 0.3 if "bn3.weight" in key else 1.0
            tensor.uniform_(0.5 * scale, 1.5 * scale, generator=generator)
        else:
            tensor.normal_(0, 0.1, generator=generator)
    if not hasattr(net, "head"):
        return net
    head = net.head.classification_head
    for conv in head.module_list if name.startswith("ssd") else [head.cls_logits]:
        conv.weight.data.mul_(0.3)
        conv.bias.data.normal_(0 if name.startswith("ssd") else -3, 0.5, generator=generator)
    if name == "retinanet_resnet50_fpn":  # it has no normalisation in its head
        net.head.classification_head.cls_logits.weight.data.mul_(0.05)
        net.head.regression_head.bbox_reg.weight.data.mul_(0.03)
    return net


def make_ours(name, classes, *words):
    settings = load_settings(get_tool("train"), [*MODELS[name].words.split(), "experiment=null", *words], CONFIGS).plain()
    return build_detector(settings, classes, seed=0).eval()


@torch.no_grad()
def their_outputs(net, pixels):
    """Raw outputs by name, and final detections, of pictures that are already resized and normalised."""
    sizes = [tuple(pixels.shape[2:])] * len(pixels)
    features = list(net.backbone(pixels).values())
    raw = net.head(features)
    anchors = net.anchor_generator(ImageList(pixels, sizes), features)
    if hasattr(net, "topk_candidates") and not hasattr(net, "neg_to_pos_ratio"):
        shapes = net.anchor_generator.num_anchors_per_location()[0]
        counts = [shapes * m.shape[2] * m.shape[3] for m in features]
        split = {key: list(value.split(counts, dim=1)) for key, value in raw.items()}
        return raw, net.postprocess_detections(split, [list(a.split(counts)) for a in anchors], sizes)
    return raw, net.postprocess_detections(raw, anchors, sizes)


@torch.no_grad()
def our_outputs(detector, pixels):
    """Raw outputs of the head, and final detections."""
    features = detector.neck(detector.backbone(pixels))
    sizes = torch.tensor([pixels.shape[2:]] * len(pixels))
    return detector.head(features), detector.late_fusion([detector.head.predict(features, sizes)])
