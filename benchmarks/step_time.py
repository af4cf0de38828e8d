"""Training-step time of our FCOS against torchvision's on the same backbone, neck width, head depth and input, alternated in one run.

    python benchmarks/step_time.py --out benchmarks/step_time.md
    python benchmarks/step_time.py --device cuda --batch 16 --size 320 320 --out benchmarks/step_time_gpu.md

Both are EfficientNet-Lite0 (random weights, nothing frozen) at strides 8, 16, 32, FPN of 128 channels, FCOS with four convolutions a
tower. A step is forward, loss, backward and AdamW. Every round runs each arm once; medians and minima over the rounds are reported.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import statistics
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import date
from pathlib import Path

import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FCOS as ReferenceFCOS  # noqa: N811
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fusion_det.build import build_detector
from fusion_det.config.cli import load_settings
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.structures import ImageBatch, Targets

MODEL, CHANNELS, CLASSES = "tf_efficientnet_lite0", 128, 3
Step = Callable[[], float]


class ReferenceBackbone(nn.Module):
    """The same timm features and torchvision's FPN."""

    out_channels = CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.net = timm.create_model(MODEL, features_only=True, out_indices=(2, 3, 4))
        self.fpn = FeaturePyramidNetwork(self.net.feature_info.channels(), CHANNELS)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return self.fpn(OrderedDict((str(i), m) for i, m in enumerate(self.net(x))))


def make_batch(batch: int, height: int, width: int, boxes: int, device: torch.device) -> tuple[ImageBatch, Targets]:
    """Random pictures with ``boxes`` objects each."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)
    start = torch.rand(batch, boxes, 2, generator=generator) * torch.tensor([width - 90.0, height - 90.0])
    corners = torch.cat([start, start + 10 + 75 * torch.rand(batch, boxes, 2, generator=generator)], dim=2)
    labels = torch.randint(0, CLASSES, (batch, boxes), generator=generator)
    size = torch.tensor([[height, width]] * batch)
    images = ImageBatch(pixels, size, torch.ones(batch, 2), size, tuple(range(batch)))
    targets = Targets(corners, labels, torch.ones_like(labels, dtype=torch.bool), torch.zeros_like(labels, dtype=torch.bool))
    return images.to(device), targets.to(device)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def timed(forward: Callable[[], dict[str, Tensor]], model: nn.Module, device: torch.device, precision: str) -> Step:
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4, fused=True)

    def step() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        with autocast(device, precision):
            losses = forward()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    return step


def ours(images: ImageBatch, targets: Targets, device: torch.device, precision: str, *, fast: bool) -> Step:
    words = ["data=coco", "data.root=.", "experiment=null", "backbone=efficientnet_lite0", "backbone.pretrained=false"]
    settings = load_settings(get_tool("train"), [*words, f"neck.channels={CHANNELS}"], default_config_dir())
    model = build_detector(settings.plain(), CLASSES, seed=0, load_pretrained=False).to(device).train()
    if fast:
        model.channels_last()
    return timed(lambda: model(images, targets), model, device, precision)


def torchvisions(images: ImageBatch, targets: Targets, device: torch.device, precision: str) -> Step:
    height, width = images.pixels.shape[-2:]
    anchors = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    model = ReferenceFCOS(ReferenceBackbone(), CLASSES, min_size=min(height, width), max_size=max(height, width), anchor_generator=anchors)
    model = model.to(device).train()
    pictures = [picture.float() / 255 for picture in images.pixels]
    truth = [{"boxes": b, "labels": c} for b, c in zip(targets.boxes, targets.labels, strict=True)]
    return timed(lambda: model(pictures, truth), model, device, precision)


def measure(arms: dict[str, Step], *, warmup: int, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(warmup + rounds):
        for name, step in arms.items():
            seconds = step()
            if number >= warmup:
                times[name].append(seconds)
    return times


def table(times: dict[str, list[float]], arguments: argparse.Namespace, device: torch.device) -> str:
    base = statistics.median(times["torchvision fp32"])
    processor = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    lines = [
        f"{date.today()}, {processor}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, timm {timm.__version__}; batch {arguments.batch}, "
        f"{arguments.size[0]} x {arguments.size[1]} px, {arguments.boxes} boxes a picture; "
        f"{arguments.rounds} alternated rounds after {arguments.warmup}",
        "",
        "| arm | median step, ms | fastest, ms | images/s (median) | speed-up over torchvision fp32 |",
        "|---|---|---|---|---|",
    ]
    for name, values in times.items():
        middle = statistics.median(values)
        lines.append(f"| {name} | {1e3 * middle:.0f} | {1e3 * min(values):.0f} | {arguments.batch / middle:.1f} | {base / middle:.2f}x |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 320), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--boxes", type=int, default=14)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    images, targets = make_batch(arguments.batch, *arguments.size, arguments.boxes, device)
    arms = {
        "torchvision fp32": torchvisions(images, targets, device, "fp32"),
        "torchvision bf16 autocast": torchvisions(images, targets, device, "bf16"),
        "ours fp32, NCHW": ours(images, targets, device, "fp32", fast=False),
        "ours fp32": ours(images, targets, device, "fp32", fast=True),
        "ours bf16 autocast, NCHW": ours(images, targets, device, "bf16", fast=False),
        "ours bf16 autocast": ours(images, targets, device, "bf16", fast=True),
    }
    result = table(measure(arms, warmup=arguments.warmup, rounds=arguments.rounds), arguments, device)
    print(result)
    if arguments.out:
        arguments.out.write_text("# Training step against torchvision's FCOS\n\n" + result)


if __name__ == "__main__":
    main()
