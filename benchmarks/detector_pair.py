"""torchvision's detectors and ours with the same lively random weights, and how far they agree; what ``detector_time.py`` times."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
import torchvision
from step_time import make_batch
from torch import Tensor, nn
from torchvision.ops import box_iou

from fusion_det.build import build_detector
from fusion_det.config.cli import load_settings
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.convert.torchvision_models import MODELS
from fusion_det.convert.torchvision_weights import load_state
from fusion_det.detector import Detector
from fusion_det.engine.device import autocast
from fusion_det.fast.prepare import make_fast


class Case(NamedTuple):
    """One detector in both frameworks."""

    model: str
    """torchvision's function; empty: only ours."""
    words: str
    """Overrides that build ours."""
    classes: int
    """Of ours; torchvision counts background."""
    size: int | None = None
    """Side of the pictures, where it is no choice."""


_TRAIN_ALL = "backbone.frozen_stages=0 backbone.frozen_norm=false"
CASES = {
    "retinanet": Case("retinanet_resnet50_fpn", _TRAIN_ALL, 91),
    "fcos": Case("fcos_resnet50_fpn", _TRAIN_ALL, 91),
    "ssd300": Case("ssd300_vgg16", "backbone.frozen_stages=0", 90, 300),
    "faster_rcnn": Case("fasterrcnn_resnet50_fpn", _TRAIN_ALL, 90),
    "gfl": Case("", f"{MODELS['fcos_resnet50_fpn'].words.partition(' head=')[0]} head=gfl {_TRAIN_ALL}", 91),
}
LIVELY = {
    "retinanet_resnet50_fpn": {"cls_logits": 0.015, "bbox_reg": 0.03},
    "fcos_resnet50_fpn": {"cls_logits": 0.05, "bbox_ctrness": 0.1},
    "ssd300_vgg16": {"classification_head.module_list": 0.005, "regression_head.module_list": 0.005},
    "fasterrcnn_resnet50_fpn": {"rpn.head.cls_logits": 0.1, "rpn.head.bbox_pred": 0.01, "cls_score": 0.1, "box_predictor.bbox_pred": 0.1},
}
"""Factors on random weights under which classes and boxes differ, but not wildly."""


class Pair:
    """Both detectors with the same lively weights, one batch, and what it takes to step them."""

    def __init__(self, case: Case, batch: int, size: int, device: torch.device) -> None:
        self.case, self.device, self.size = case, device, case.size or size
        self.images, self.targets = make_batch(batch, self.size, self.size, 7, device)
        self.theirs = _theirs(case, self.size).to(device) if case.model else None
        self.ours = self.build([])
        if self.theirs is not None:
            report = load_state(self.ours, case.model, self.theirs.state_dict())
            assert report.whole, report.lines()
        self.ours.to(device).channels_last()
        self.fast = make_fast(copy.deepcopy(self.ours).eval(), (self.size, self.size))
        mean, std = (value.flatten().tolist() for value in (self.ours.mean, self.ours.std))
        if self.theirs is not None:
            self.theirs.transform.image_mean, self.theirs.transform.image_std = [m / 255 for m in mean], [s / 255 for s in std]
        self.pictures = [picture.float() / 255 for picture in self.images.pixels]
        shift = 0 if case.classes == 91 else 1
        self.truth = [{"boxes": b, "labels": c + shift} for b, c in zip(self.targets.boxes, self.targets.labels, strict=True)]

    def build(self, overrides: list[str]) -> Detector:
        """Our detector with its initial weights."""
        words = [*(MODELS[self.case.model].words if self.case.model else "").split(), *self.case.words.split(), "experiment=null"]
        settings = load_settings(get_tool("train"), [*words, *overrides], default_config_dir()).plain()
        return build_detector(settings, self.case.classes, seed=0, load_pretrained=False)

    def their_losses(self) -> dict[str, Tensor]:
        assert self.theirs is not None
        return self.theirs.train()(self.pictures, self.truth)

    def their_boxes(self) -> list[dict[str, Tensor]]:
        assert self.theirs is not None
        return self.theirs.eval()(self.pictures)


def _theirs(case: Case, size: int) -> Any:
    """torchvision's detector with random weights under which it finds something."""
    sizes = {} if case.size else {"min_size": size, "max_size": size}
    net = getattr(torchvision.models.detection, case.model)(weights=None, weights_backbone=None, **sizes)
    generator = torch.Generator().manual_seed(0)
    for key, tensor in net.state_dict().items():
        if tensor.ndim in (2, 4):
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        elif key.endswith(("weight", "running_var")):
            scale = 20.0 if "scale_weight" in key else 0.3 if "bn3.weight" in key else 1.0
            tensor.uniform_(0.5 * scale, 1.5 * scale, generator=generator)
    with torch.no_grad():
        for name, module in net.named_modules():
            factor = next((value for key, value in LIVELY[case.model].items() if key in name), None)
            if factor is not None and isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.mul_(factor)
                if "classification_head" in name and module.bias is not None:
                    module.bias.normal_(0 if case.size else -2, 0.5, generator=generator)
    return net


def loss_difference(pair: Pair) -> float:
    """Largest relative difference of a loss; samplers take everything meanwhile, so that nothing is drawn."""
    theirs, ours = pair.theirs, pair.ours
    samplers = [part.fg_bg_sampler for part in (theirs.rpn, theirs.roi_heads)] if hasattr(theirs, "roi_heads") else []
    usual = [(sampler.batch_size_per_image, sampler.positive_fraction) for sampler in samplers]
    if samplers:
        anchors = sum(3 * ((pair.size + stride - 1) // stride) ** 2 for stride in (4, 8, 16, 32, 64))
        everything = [f"head.rpn.samples={anchors}", "head.rpn.positive_share=1.0", "head.samples=2010", "head.positive_share=1.0"]
        ours = pair.build(everything)
        ours.load_state_dict(pair.ours.state_dict())
        ours.to(pair.device).channels_last()
        for sampler in samplers:
            sampler.batch_size_per_image, sampler.positive_fraction = 10**6, 1.0
    states = [{k: v.clone() for k, v in net.state_dict().items()} for net in (theirs, pair.ours)]
    with torch.no_grad():
        wanted = torch.stack([*pair.their_losses().values()]).sort().values
        found = torch.stack([*ours.train()(pair.images, pair.targets).values()]).sort().values
    for net, state in zip((theirs, pair.ours), states, strict=True):
        net.load_state_dict(state)
    for sampler, (size, share) in zip(samplers, usual, strict=True):
        sampler.batch_size_per_image, sampler.positive_fraction = size, share
    return float(((found - wanted).abs() / wanted.abs()).max())


def same_boxes(pair: Pair, model: Detector, precision: str) -> str:
    """How many of torchvision's boxes ``model`` has."""
    with torch.inference_mode(), autocast(pair.device, precision):
        found = model.eval().predict(pair.images)
    with torch.inference_mode():
        expected = pair.their_boxes()
    overlap, close = (0.999, 1e-4) if precision == "fp32" else (0.9, 0.05)
    hits = total = 0
    shift = 0 if pair.case.classes == 91 else 1
    for row, one in enumerate(expected):
        kept = found.valid[row]
        boxes = found.boxes[row][kept]
        near = torch.cdist(one["boxes"], boxes, p=torch.inf) < 0.01  # boxes without area have no IoU
        near |= box_iou(one["boxes"], boxes) >= overlap
        equal = (one["labels"][:, None] == found.labels[row][kept] + shift) & (
            (one["scores"][:, None] - found.scores[row][kept]).abs() <= close
        )  # fmt: skip
        hits += int((near & equal).any(dim=1).sum())
        total += len(one["boxes"])
    return f"{hits} of {total}"
