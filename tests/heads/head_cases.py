"""Batches, levels and comparisons that the tests of several heads share."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from fusion_det.config.instantiate import build
from fusion_det.structures import LevelSpec, Targets

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PICTURE = 128
CHANNELS = 16
LEVELS = [LevelSpec(f"P{i}", CHANNELS, 2**i) for i in range(3, 8)]
SHAPES = [(PICTURE // level.stride,) * 2 for level in LEVELS]


class Stub(torch.nn.Module):
    """What torchvision's models want for a backbone."""

    out_channels = CHANNELS


def options(group, name, **changes):
    """The keys of a YAML under ``configs``, with changes."""
    node = yaml.safe_load((CONFIGS / group / f"{name}.yaml").read_text())
    for choice, option in ((c, o) for entry in node.pop("defaults", []) if isinstance(entry, dict) for c, o in entry.items()):
        placed, _, key = choice.removeprefix("/").partition("@")  # `- /roi_fusion@roi_fusion: level`
        node[key] = options(placed, option)
    assert changes.keys() <= node.keys()
    return node | changes


def make_head(name, levels=LEVELS, classes=5, seed=3, **changes):
    """The head of ``configs/head/NAME.yaml``."""
    torch.manual_seed(seed)
    return build(options("head", name, **changes), levels, classes)


def make_features(batch=2, seed=0, levels=LEVELS, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, level.channels, *shape, generator=generator) for level, shape in zip(levels, shapes, strict=True)]


def make_targets(counts, crowds=(), seed=0, padded=16, picture=PICTURE, classes=5):
    """Random boxes; image i has ``counts[i]`` objects, those in ``crowds`` (image, slot) are crowd regions."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(len(counts), padded, 2, generator=generator) * (picture - 8)
    extent = 4 + torch.rand(len(counts), padded, 2, generator=generator).square() * picture
    boxes = torch.cat([start, (start + extent).clamp(max=picture)], dim=2)
    present = torch.arange(padded) < torch.tensor(counts)[:, None]
    crowd = torch.zeros_like(present)
    for image, slot in crowds:
        crowd[image, slot] = True
    labels = torch.randint(0, classes, present.shape, generator=generator)
    return Targets(boxes * present[..., None], labels * present, present & ~crowd, crowd)


def random_batches(number=20):
    """(seed, number of objects of each of two images): full, one object, one empty picture, both empty."""
    counts = [[7, 3], [1, 12], [5, 0], [0, 9], [0, 0]]
    return [(seed, counts[seed % len(counts)]) for seed in range(number)]


def as_torchvision(targets, first_label=0):
    """Targets as torchvision's list of dictionaries; its SSD counts classes from 1."""
    rows = zip(targets.boxes, targets.labels, targets.valid, strict=True)
    return [{"boxes": boxes[valid], "labels": labels[valid] + first_label} for boxes, labels, valid in rows]


def image_list(batch, picture=PICTURE):
    return ImageList(torch.zeros(batch, 3, picture, picture), [(picture, picture)] * batch)


def suppress(raw, *, iou_threshold, max_detections):
    """Our final detections of one source."""
    node = options("late_fusion", "nms", iou_threshold=iou_threshold, max_detections=max_detections, class_agnostic=False)
    return build(node)([raw])


def assert_same_detections(ours, theirs, first_label=0):
    """Each of torchvision's detections is among ours (IoU >= 0.999, score within 1e-4), and there are no others."""
    for row, expected in enumerate(theirs):
        kept = ours.valid[row]
        boxes, scores, labels = ours.boxes[row][kept], ours.scores[row][kept], ours.labels[row][kept] + first_label
        assert len(boxes) == len(expected["boxes"])
        # Boxes that clipping left without area have no IoU.
        close = (box_iou(expected["boxes"], boxes) >= 0.999) | ((expected["boxes"][:, None] - boxes).abs().amax(dim=2) < 1e-3)
        same = close & (expected["labels"][:, None] == labels)
        same &= (expected["scores"][:, None] - scores).abs() <= 1e-4
        assert same.any(dim=1).all()
        assert same.any(dim=0).all()
    return sum(len(expected["boxes"]) for expected in theirs)
