"""Every recipe of configs/experiment: composes, fits together at its own size, and learns for two steps at a small one."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import pytest
import torch

from fusion_det.build import build_detector, dry_run
from fusion_det.config.cli import load_settings
from fusion_det.config.instantiate import build
from fusion_det.config.tools import get_tool
from fusion_det.data.dataset import DetectionDataset
from fusion_det.data.loader import collate
from fusion_det.data.scenes import scenes
from fusion_det.engine.trainer import Trainer

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted((CONFIGS / "experiment").glob("*.yaml"))
SMALL = 96
"""Long side of the pictures of the two steps."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny_data(tmp_path_factory):
    """Six training and two validation pictures in COCO's layout."""
    options = load_settings(get_tool("train"), ["data.train_images=6", "data.val_images=2"], CONFIGS).plain()["data"]
    options.pop("_target_")
    source = scenes(**{**options, "root": str(tmp_path_factory.mktemp("data"))})
    return source.train.annotation_file.parents[1]


@functools.cache
def compose(stem):
    return load_settings(get_tool("train"), [f"experiment={stem}", "data.root=."], CONFIGS).plain()


@functools.cache
def fit(stem):
    return dry_run(compose(stem))


def shrink(stem, root):
    """The same recipe for ``tiny_data`` and small pictures; what costs seconds and is no part of the recipe becomes narrow."""
    cfg = copy.deepcopy(compose(stem))
    data, head = cfg["data"], cfg["head"]
    data["root"] = str(root)
    if "scenes" in data["_target_"]:
        data |= {"train_images": 6, "val_images": 2}
        return cfg
    data |= {"train_split": "train", "val_split": "val", "image_size": SMALL}
    data |= {"short_side": 64} if data["short_side"] else {}
    cfg["backbone"] |= {key: value for key, value in (("pretrained", False), ("weights", None)) if key in cfg["backbone"]}
    if cfg["neck"]["extra"]["_target_"].endswith("SsdExtras"):
        cfg["neck"]["extra"] |= {"unpadded": 0, "last_kernel": 3}  # the last levels of SSD need 300 and 512 pixels
    if "box_head" in head:
        head["samples"] = 16
        head["box_head"]["width"] = 64
    return cfg


def two_steps(cfg):
    """Losses of two training steps, and the trainer."""
    source = build(cfg["data"])
    dataset = DetectionDataset(source.train, source.buckets, augment=build(cfg["augment"]), seed=0)
    bucket = dataset.bucket_of_image.tolist()
    pictures = [i for i in range(len(dataset)) if bucket[i] == bucket[0]][:2]
    batches = [collate([dataset[step, i] for i in pictures]) for step in range(2)]
    model = build_detector(cfg, len(source.train.categories), seed=0, load_pretrained=False).train()
    optimizer, options = build(cfg["optimizer"], model), cfg["trainer"]
    trainer = Trainer(
        model, optimizer, build(cfg["schedule"], optimizer, 100), lambda *_: batches,
        num_batches=2, epochs=1, device=torch.device("cpu"), precision="fp32", accumulate=1,
        clip_grad_norm=options["clip_grad_norm"], ema_decay=options["ema_decay"], log_every=10,
    )  # fmt: skip
    found = []
    for batch in batches:
        trainer.train_step([batch])
        trainer.guard.check(wait=True)
        found.append(trainer.window.drain()["loss"])
    return found, trainer


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_two_steps(file, tiny_data):
    cfg = shrink(file.stem, tiny_data)
    losses, trainer = two_steps(cfg)
    assert all(0 < loss < 1e4 for loss in losses)
    assert trainer.step == 2
    assert all(p.isfinite().all() for p in trainer.parameters)
    assert any(name.startswith("head.") for name, p in trainer.model.named_parameters() if p.requires_grad)
    if cfg["backbone"].get("frozen_norm"):
        norms = [m for m in trainer.model.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms
        assert not any(m.training or m.weight.requires_grad for m in norms)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_fits_together_at_its_own_size(file):
    assert fit(file.stem).sizes is not None
    header = file.read_text().split("defaults:")[0]
    assert f"python tools/train.py experiment={file.stem}" in header or file.stem == "scenes"  # the default


@pytest.mark.parametrize(
    ("stem", "count"), [("ssd300_vgg16_voc", 8732), ("ssd300_vgg16_coco", 8732), ("ssd512_vgg16_voc", 24564), ("ssd512_vgg16_coco", 24564)]
)
def test_ssd_has_the_papers_default_boxes(stem, count):
    head = compose(stem)["head"]
    per_cell = [2 + 2 * len(ratios) for ratios in head["aspect_ratios"]]
    assert sum(h * w * shapes for (h, w), shapes in zip(fit(stem).sizes, per_cell, strict=True)) == count
    # The largest default box is 1.05 to 1.06 times as large as the picture (88 to 90 % and one step more).
    assert 1.05 <= head["max_sizes"][-1] / head["picture_size"] <= 1.06
    assert head["min_sizes"][1:] == head["max_sizes"][:-1]


def test_the_neck_comparisons_differ_in_the_neck_alone():
    base = compose("faster_rcnn_r50_fpn_1x")
    for stem in ("pafpn", "bifpn", "aff_fpn", "iaff_fpn"):
        other = compose(stem)
        different = {key for key in base if base[key] != other[key]} - {"name"}
        assert different <= {"neck", "fusion", "block"}
        assert [level.stride for level in fit(stem).levels] == [4, 8, 16, 32, 64]
        assert {level.channels for level in fit(stem).levels} == {256}
