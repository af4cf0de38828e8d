"""RoIAlign as a sparse product against torchvision's kernel, and with --step the whole training step of Faster R-CNN R50-FPN.

    python benchmarks/roi_align.py --out benchmarks/roi_align.md
    python benchmarks/roi_align.py --step --rounds 3 --out benchmarks/roi_align.md
    python benchmarks/roi_align.py --device cuda --out benchmarks/roi_align_gpu.md

On a CPU the times are process CPU time of one thread, as other work may share the machine; on a GPU wall-clock time after
``torch.cuda.synchronize()``. Arms alternate round by round; medians and the fastest round are reported.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.ops import MultiScaleRoIAlign

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from step_time import make_batch

from fusion_det.build import build_detector
from fusion_det.config.cli import load_settings
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.heads.roi_align import roi_align

NOTE = """Random maps and boxes of 4 px to the whole picture, 2 x 2 samples a bin; outputs are compared before anything is timed
(1e-4). torchvision: its `MultiScaleRoIAlign`. The product first lays all levels out as rows, so with few boxes on
large maps its forward pass is the slower one. Not shown: more threads; GPUs, where `roi_align` takes torchvision's kernel until this was
measured there."""
STEP_NOTE = """Batch 2, 320 x 320 px, 7 boxes a picture, 512 proposals a picture are taught, nothing frozen, no optimizer step. The arms
are different networks of the same layers with random weights; that they compute the same is tested in `tests/heads/test_faster_rcnn.py`.
Not shown: how far the losses of bf16 are from fp32, more threads, prediction, GPUs."""

Times = tuple[float, float]
"""Seconds forward and backward."""


class Case(NamedTuple):
    """What is pooled."""

    name: str
    batch: int
    channels: int
    picture: int
    strides: tuple[int, ...]
    boxes: int
    bins: int


CASES = (
    Case("FPN, 320 px, 2 x 512 boxes", 2, 256, 320, (4, 8, 16, 32), 512, 7),
    Case("FPN, 800 px, 1 x 512 boxes", 1, 256, 800, (4, 8, 16, 32), 512, 7),
    Case("FPN, 800 px, 1 x 100 boxes", 1, 256, 800, (4, 8, 16, 32), 100, 7),
    Case("one level of 80 x 80, 512 boxes", 1, 256, 320, (4,), 512, 7),
    Case("head=faster_rcnn_small, 160 px, 16 x 64 boxes", 16, 64, 160, (8, 16, 32), 64, 5),
)


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def arms(case: Case, device: torch.device) -> dict[str, Callable[[], Times]]:
    generator = torch.Generator().manual_seed(0)
    sides = [case.picture // stride for stride in case.strides]
    features = [torch.randn(case.batch, case.channels, side, side, generator=generator).to(device).requires_grad_() for side in sides]
    start = torch.rand(case.batch, case.boxes, 2, generator=generator) * case.picture * 0.8
    extent = 4 + torch.rand(case.batch, case.boxes, 2, generator=generator).square() * case.picture
    boxes = torch.cat([start, (start + extent).clamp(max=case.picture)], dim=2).to(device)
    canonical = 56 * case.picture / 320
    pooler = MultiScaleRoIAlign([str(i) for i in range(len(sides))], case.bins, 2, canonical_scale=canonical, canonical_level=3)
    named = dict(enumerate(features))
    maps = {str(i): x for i, x in named.items()}
    finest = case.strides[0].bit_length() - 1
    area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=2)
    levels = ((3 + torch.log2(area.sqrt() / canonical) + 1e-6).floor() - finest).clamp(0, len(sides) - 1).long()

    def theirs() -> Tensor:
        return pooler(maps, list(boxes), [(case.picture, case.picture)] * case.batch)

    def ours(sparse: bool) -> Callable[[], Tensor]:
        options = {"strides": case.strides, "bins": case.bins, "samples": 2, "aligned": False, "sparse": sparse}
        return lambda: roi_align(features, boxes, levels, **options)

    found = {"torchvision": theirs, "sparse product": ours(sparse=True)}
    expected = theirs()
    for pooled in (found["sparse product"](), ours(sparse=False)()):
        assert (pooled - expected).abs().max() < 1e-4
    gradient = torch.randn(expected.shape, generator=generator).to(device)

    def timed(pool: Callable[[], Tensor]) -> Callable[[], Times]:
        def both() -> Times:
            begin = clock(device)
            pooled = pool()
            middle = clock(device)
            torch.autograd.grad(pooled, features, gradient)
            return middle - begin, clock(device) - middle

        return both

    return {name: timed(pool) for name, pool in found.items()}


def alternate(arms: dict[str, Callable[[], Times]], rounds: int) -> dict[str, list[Times]]:
    times: dict[str, list[Times]] = {name: [] for name in arms}
    for number in range(1 + rounds):  # the first is thrown away
        for name, run in arms.items():
            seconds = run()
            if number:
                times[name].append(seconds)
    return times


def operator_table(rounds: int, device: torch.device) -> list[str]:
    lines = [
        "| case | torchvision, ms (forward + backward) | sparse product, ms | fastest of each, ms | speed-up | backward |",
        "|---|---|---|---|---|---|",
    ]
    for case in CASES:
        times = alternate(arms(case, device), rounds)
        middle = {name: [1e3 * statistics.median(column) for column in zip(*values, strict=True)] for name, values in times.items()}
        best = [1e3 * min(sum(pair) for pair in values) for values in times.values()]
        (a, b), (c, d) = middle.values()
        lines.append(
            f"| {case.name} | {a:.1f} + {b:.1f} | {c:.1f} + {d:.1f} | {best[0]:.1f}, {best[1]:.1f} "
            f"| {(a + b) / (c + d):.1f}x | {b / d:.1f}x |"
        )
    return lines


def step_table(rounds: int, device: torch.device) -> list[str]:
    """Forward, loss and backward of R50-FPN, 320 px, batch 2, nothing frozen; 512 boxes per picture, torchvision's constants."""
    images, targets = make_batch(2, 320, 320, 7, device)
    words = ["data=coco", "data.root=.", "experiment=null", "backbone=resnet50", "backbone.pretrained=false", "backbone.frozen_stages=0"]
    words += [
        "backbone.frozen_norm=false",
        "backbone.strides=[4,8,16,32]",
        "neck.channels=256",
        "neck.extra.count=1",
        "neck.extra.kind=maxpool",
    ]
    settings = load_settings(get_tool("train"), [*words, "head=faster_rcnn"], default_config_dir())
    mine = build_detector(settings.plain(), 3, seed=0, load_pretrained=False).to(device).train()
    last = build_detector(settings.plain(), 3, seed=0, load_pretrained=False).to(device).train().channels_last()
    model = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=4, trainable_backbone_layers=5, min_size=320, max_size=320
    )
    model = model.to(device).train()
    pictures = [picture.float() / 255 for picture in images.pixels]
    truth = [{"boxes": b, "labels": c + 1} for b, c in zip(targets.boxes, targets.labels, strict=True)]

    def timed(forward: Callable[[], dict[str, Tensor]], precision: str = "fp32") -> Callable[[], Times]:
        def both() -> Times:
            begin = clock(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                losses = forward()
            middle = clock(device)
            torch.stack(list(losses.values())).sum().backward()
            return middle - begin, clock(device) - middle

        return both

    runs = {
        "torchvision fp32": timed(lambda: model(pictures, truth)),
        "ours fp32, NCHW": timed(lambda: mine(images, targets)),
        "ours fp32": timed(lambda: last(images, targets)),
        "ours bf16 autocast": timed(lambda: last(images, targets), "bf16"),
    }
    times = alternate(runs, rounds)
    base = statistics.median(sum(pair) for pair in times["torchvision fp32"])
    lines = ["| arm | forward, ms | backward, ms | both, ms | fastest, ms | speed-up over torchvision fp32 |", "|---|---|---|---|---|---|"]
    for name, values in times.items():
        forward, backward = (1e3 * statistics.median(column) for column in zip(*values, strict=True))
        both = statistics.median(sum(pair) for pair in values)
        fastest = min(sum(pair) for pair in values)
        lines.append(f"| {name} | {forward:.0f} | {backward:.0f} | {1e3 * both:.0f} | {1e3 * fastest:.0f} | {base / both:.2f}x |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--step", action="store_true", help="the training step instead; appended to --out")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(1)
    processor = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU, one thread, process CPU time"
    head = (
        f"{date.today()}, {processor}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}; "
        f"{arguments.rounds} alternated rounds after 1; fp32 unless said"
    )
    title = "## Training step of Faster R-CNN R50-FPN" if arguments.step else "# RoIAlign: sparse product against torchvision"
    table = step_table(arguments.rounds, device) if arguments.step else operator_table(arguments.rounds, device)
    text = "\n".join([title, "", head, "", *table, "", STEP_NOTE if arguments.step else NOTE]) + "\n"
    print(text)
    if arguments.out:
        before = arguments.out.read_text() + "\n" if arguments.step and arguments.out.exists() else ""
        arguments.out.write_text(before + text)


if __name__ == "__main__":
    main()
