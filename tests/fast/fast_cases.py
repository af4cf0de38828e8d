"""Small detectors whose BatchNorms do something, and how far two of them agree."""

from __future__ import annotations

import torch
from torch import nn

from fusion_det.build import build_detector
from fusion_det.config.cli import load_settings
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.detector import Detector
from fusion_det.structures import ImageBatch

SMALL = ["data=coco", "data.root=.", "data.image_size=64", "neck.channels=16", "backbone.stem_width=8", "backbone.widths=[8,8,16,16]"]
PARTS = ["backbone.depths=[1,1,1,1]", "head.score_threshold=0.0", "late_fusion.max_detections=20"]
TINY = [*SMALL, *PARTS, "head.num_convs=1"]
DETECTORS: dict[str, tuple[list[str], set[str]]] = {
    "fcos": (TINY, {"head"}),  # a BatchNorm per level after shared convolutions
    "retinanet": ([*TINY, "head=retinanet_small", "head.norm=gn"], set()),
    "aff": ([*TINY, "neck=aff_fpn"], {"head"}),
    "rep_csp": ([*TINY, "neck=pafpn", "block=rep_csp"], {"head"}),
    "faster_rcnn": ([*SMALL, *PARTS, "head=faster_rcnn_small"], set()),
}
"""Words of tools/train.py, and the parts where BatchNorm has to stay."""


def lively(model: nn.Module) -> nn.Module:
    """``model`` with statistics and factors that are not those BatchNorm starts with."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.weight, 0.5, 1.5), (module.bias, -0.5, 0.5), (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0),
                ):  # fmt: skip
                    if tensor is not None:
                        tensor.uniform_(low, high)
    return model


def small_detector(words: list[str]) -> Detector:
    settings = load_settings(get_tool("train"), words or TINY, default_config_dir()).plain()
    detector = build_detector(settings, 3, seed=0, load_pretrained=False)
    torch.manual_seed(0)
    lively(detector)
    with torch.no_grad():
        for module in detector.head.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.mul_(4)  # scores that do not nearly tie
    return detector.eval().channels_last()


def pictures(count: int, height: int, width: int) -> ImageBatch:
    generator = torch.Generator().manual_seed(height)
    pixels = torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=generator)
    sizes = torch.tensor([[height, width]] * count)
    return ImageBatch(pixels, sizes, torch.ones(count, 2), sizes, tuple(range(count)))


@torch.no_grad()
def same_candidates(first: Detector, second: Detector, images: ImageBatch, tolerance: float = 1e-4) -> None:
    """Maps and sorted scores agree to ``tolerance``, and every box of the first is there, with its label."""
    for ours, theirs in zip(first.features(images), second.features(images), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=tolerance, atol=tolerance)
    before, after = first.predict(images), second.predict(images)
    assert before.valid.sum() == after.valid.sum() > 0
    torch.testing.assert_close(after.scores, before.scores, rtol=tolerance, atol=tolerance)
    for row in range(len(images)):
        one, other = (found.boxes[row][found.valid[row]] for found in (before, after))
        distance = torch.cdist(one, other, p=torch.inf)
        distance = distance.masked_fill(before.labels[row][before.valid[row]][:, None] != after.labels[row][after.valid[row]], torch.inf)
        assert distance.min(1).values.max() < 0.01
