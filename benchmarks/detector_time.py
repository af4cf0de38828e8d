"""Whole training steps and prediction of four detectors against torchvision's, with the same weights, alternated in one process.

    python benchmarks/detector_time.py --models retinanet fcos --parts train
    python benchmarks/detector_time.py --results /tmp/times.json --out benchmarks/detector_time.md
    python benchmarks/detector_time.py --device cuda --batch 16 --size 640 --out benchmarks/detector_time_gpu.md

``--results`` keeps what was measured in a file, so that the page can be made of several short runs: rounds are added to those before.
Parts: ``train`` is forward, losses, backward and SGD, and beside it the same network with the mean of its outputs as loss; ``predict`` is
pictures to final boxes. Before anything is timed the losses and the final boxes of fp32 are compared with torchvision's. Wall-clock and
process CPU time are both taken; on a GPU the clock stops after ``torch.cuda.synchronize()``.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from detector_pair import CASES, Pair, loss_difference, same_boxes

from fusion_det.detector import Detector
from fusion_det.engine.device import autocast
from fusion_det.engine.memory import keep_freed_memory
from fusion_det.engine.optim import sgd
from fusion_det.structures import ImageBatch

NOTE = """`torchvision fp32` is torchvision's function with its defaults (91 columns of classes, fp32, NCHW, eager, `torch.optim.SGD`), on
pictures that are resized already. `ours` has the same weights in NHWC (`trainer.channels_last`) and `FusedSGD`, whose updates are those of
`torch.optim.SGD`, bit for bit; `bf16` is autocast to bfloat16, as training and prediction do it. `fast`: BatchNorm folded into
convolutions, weights in oneDNN's order, ReLUs inside the convolutions before them, wide 3x3 convolutions in fp32 by Winograd's algorithm
(`winograd.md`), as `tools/predict.py` does it (`fast: true`); making it so, which takes about as long as one picture, is not timed. All
BatchNorms and all layers learn, the state of a detector without pre-trained weights. Random weights, random pictures with 7 boxes each.
*Losses*: largest relative difference to torchvision's before the first step (Faster R-CNN: with so many samples that nothing is drawn at
random). *Network only*: forward and backward from the mean of the outputs, cast to float32, without targets, losses and optimizer, in the
same precision. *Boxes*: how many of torchvision's final boxes ours has, of the same class, with IoU >= 0.999 (bf16: >= 0.9) and a score
within 1e-4 (bf16: 0.05); with random weights many scores nearly tie, so that bf16 exchanges boxes that a trained network would not.
What this does not show: trained weights, real pictures, several threads unless the line says so."""


Step = Callable[[], Any]
Clock = tuple[float, float]
"""Wall-clock and process CPU seconds."""
Times = list[float]
"""Both clocks for a whole step, and both for the optimizer's part of it."""


def clock(device: torch.device) -> Clock:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def training_step(forward: Callable[[], dict[str, Tensor]], optimizer: Any, context: Callable[[], Any], device: torch.device) -> Step:
    """A step that tells how long its optimizer took."""

    def step() -> Clock:
        with context():
            losses = forward()
        torch.stack(list(losses.values())).sum().backward()
        begin = clock(device)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        end = clock(device)
        return end[0] - begin[0], end[1] - begin[1]

    return step


def floor_step(model: Detector, images: ImageBatch, context: Callable[[], Any]) -> Step:
    def step() -> None:
        with context():
            outputs = model.train().head(model.features(images))
        torch.stack([output.float().mean() for output in outputs]).sum().backward()  # float32, as losses are
        model.zero_grad(set_to_none=True)

    return step


def prediction(pair: Pair, model: Detector, context: Callable[[], Any]) -> Step:
    """As ``fusion_det.load`` does it."""

    def step() -> object:
        with torch.inference_mode(), context():
            return model.eval().predict(pair.images)

    return step


def arms(pair: Pair, parts: list[str]) -> dict[str, dict[str, Step]]:
    """Steps by part and arm."""

    def context(precision: str) -> Callable[[], AbstractContextManager[Any]]:
        return lambda: autocast(pair.device, precision)

    found: dict[str, dict[str, Step]] = {}
    rates = {"lr": 1e-6, "weight_decay": 1e-4, "momentum": 0.9}
    model, precisions = pair.ours, ("fp32", "bf16")
    mine = sgd(model, **rates, nesterov=False, backbone_lr_factor=1.0, norm_decay=True)  # type: ignore[arg-type]
    if "train" in parts:
        steps = found.setdefault("train", {})
        if pair.theirs is not None:
            optimizer = torch.optim.SGD([p for p in pair.theirs.parameters() if p.requires_grad], **rates)  # type: ignore[arg-type]
            steps["torchvision fp32"] = training_step(pair.their_losses, optimizer, context("fp32"), pair.device)
        for precision in precisions:
            forward: Callable[[], dict[str, Tensor]] = lambda: model.train()(pair.images, pair.targets)  # noqa: E731
            steps[f"ours {precision}"] = training_step(forward, mine, context(precision), pair.device)
            if pair.case.model != "fasterrcnn_resnet50_fpn":
                steps[f"network only {precision}"] = floor_step(model, pair.images, context(precision))
    if "predict" in parts and pair.theirs is not None:
        steps = found.setdefault("predict", {})
        steps["torchvision fp32"] = torch.inference_mode()(pair.their_boxes)
        for precision in precisions:
            steps[f"ours {precision}"] = prediction(pair, model, context(precision))
            steps[f"ours {precision}, fast"] = prediction(pair, pair.fast, context(precision))
    return found


def alternate(steps: dict[str, Step], rounds: int, device: torch.device) -> dict[str, list[Times]]:
    times: dict[str, list[Times]] = {name: [] for name in steps}
    for number in range(1 + rounds):  # the first is thrown away
        # Each time in another order: what a step costs depends on what the one before it left in caches and heap.
        for name, run in random.Random(number).sample(list(steps.items()), len(steps)):
            begin = clock(device)
            told = run()
            end = clock(device)
            if number:
                optimizer = told if isinstance(told, tuple) else (0.0, 0.0)
                times[name].append([end[0] - begin[0], end[1] - begin[1], *optimizer])
    return times


def measure(name: str, arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Times of one detector by part and arm, and how far it agrees with torchvision."""
    torch.manual_seed(0)
    pair = Pair(CASES[name], arguments.batch, arguments.size, device)
    agreement: dict[str, Any] = {}
    if pair.theirs is not None and not arguments.unchecked:
        agreement["losses"] = loss_difference(pair)
        agreement |= {precision: same_boxes(pair, pair.ours, precision) for precision in ("fp32", "bf16")}
        agreement |= {f"{precision}, fast": same_boxes(pair, pair.fast, precision) for precision in ("fp32", "bf16")}
        print(name, agreement, flush=True)
        assert agreement["losses"] < 1e-3, "other losses than torchvision's"
        for arm in ("fp32", "fp32, fast"):
            assert len(set(agreement[arm].split(" of "))) == 1, "other boxes than torchvision's"
    found = {part: alternate(steps, arguments.rounds, device) for part, steps in arms(pair, arguments.parts).items()}
    return {"agreement": agreement, "size": pair.size, "times": found}


def middle(times: list[Times], column: int) -> float:
    """Median milliseconds."""
    return 1e3 * statistics.median(row[column] for row in times)


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def row(name: str, entry: dict[str, Any], arm: str, values: list[Times], ratios: list[str]) -> str:
    cells = [middle(values, 1), middle(values, 0), 1e3 * min(value[1] for value in values)]
    return line([f"{name} {entry['size']}", arm, *(f"{cell:.0f}" for cell in cells), *ratios])


def speed_table(results: dict[str, Any], part: str, column: int, last: str) -> list[str]:
    """Arms against torchvision's; ``column`` of the times: 0 wall-clock, 1 CPU."""
    lines = [f"| detector | arm | CPU, ms | wall, ms | fastest CPU, ms | speed-up | {last} | rounds |", "|---|---|---|---|---|---|---|---|"]
    for name, entry in results.items():
        times, agreement = entry["times"].get(part, {}), entry["agreement"]
        if "torchvision fp32" not in times:
            continue
        base = middle(times["torchvision fp32"], column)
        for arm, values in times.items():
            if arm.startswith("network"):
                continue
            check = agreement.get(arm.removeprefix("ours "), "")
            if last == "losses":
                check = f"{agreement['losses']:.0e}" if arm == "ours fp32" and agreement else ""
            lines.append(row(name, entry, arm, values, [f"{base / middle(values, column):.2f}x", check, str(len(values))]))
    return [*lines, ""]


def floor_table(results: dict[str, Any], column: int) -> list[str]:
    """Whole steps over the network alone."""
    heads = ["detector", "precision", "whole step, ms", "of it optimizer, ms", "network only, ms", "whole / network", "of the fastest"]
    lines = [line([*heads, "without optimizer", "rounds"]), "|---" * 9 + "|"]
    for name, entry in results.items():
        times = entry["times"].get("train", {})
        for precision in ("fp32", "bf16"):
            if f"network only {precision}" not in times:
                continue
            whole, network = times[f"ours {precision}"], middle(times[f"network only {precision}"], column)
            step, optimizer = middle(whole, column), middle(whole, column + 2)
            fastest = min(t[column] for t in whole) / min(t[column] for t in times[f"network only {precision}"])
            ratios = [f"{ratio:.3f}" for ratio in (step / network, fastest, (step - optimizer) / network)]
            cells = [*(f"{cell:.0f}" for cell in (step, optimizer, network)), *ratios, str(len(whole))]
            lines.append(line([f"{name} {entry['size']}", precision, *cells]))
    return [*lines, ""]


def page(results: dict[str, Any], head: str, column: int) -> str:
    lines = ["# Detectors against torchvision's", "", head, "", "## Training step", "", *speed_table(results, "train", column, "losses")]
    lines += ["## Whole step over its network alone", "", *floor_table(results, column)]
    lines += ["## Prediction", "", *speed_table(results, "predict", column, "boxes"), NOTE]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--parts", nargs="+", default=["train", "predict"], choices=["train", "predict"])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--unchecked", action="store_true", help="do not compare losses and boxes first")
    parser.add_argument("--results", type=Path, help="JSON file to add to")
    parser.add_argument("--page-only", action="store_true", help="measure nothing, write the page of --results")
    parser.add_argument("--remark", default="", help="what else a reader must know of the machine")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    if device.type == "cpu":
        keep_freed_memory()  # for both sides; fusion_det's training does so
    results: dict[str, Any] = {}
    if arguments.results and arguments.results.exists():
        results = json.loads(arguments.results.read_text())
    for name in [] if arguments.page_only else arguments.models:
        found = measure(name, arguments, device)
        before = results.get(name, {"agreement": {}, "times": {}})
        for part, times in before["times"].items():
            mine = found["times"].setdefault(part, {})
            found["times"][part] = {arm: before["times"][part].get(arm, []) + mine.get(arm, []) for arm in {**times, **mine}}
        found["agreement"] = before["agreement"] | found["agreement"]
        results[name] = found
        if arguments.results:
            arguments.results.write_text(json.dumps(results))
    processor = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU, {arguments.threads} thread(s)"
    head = (
        f"{date.today()}, {processor}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}; "
        f"batch {arguments.batch}; medians of rounds in random order; speed-ups of {'wall-clock' if device.type == 'cuda' else 'CPU'} time"
    )
    head += f"\n\n{arguments.remark}" if arguments.remark else ""
    text = page(results, head, 0 if device.type == "cuda" else 1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
