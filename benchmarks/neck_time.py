"""Forward and backward time of every named neck against its own convolutions run alone.

    python benchmarks/neck_time.py --out benchmarks/neck_time.md
    python benchmarks/neck_time.py --necks bifpn fapn --precision bf16
    python benchmarks/neck_time.py --device cuda --batch 16 --out benchmarks/neck_time_gpu.md

The necks of configs/neck at 256 channels (other keys as in their files) get random maps of ResNet-50's widths at the levels given, and give
gradients to all parameters and maps, in training mode. All get the same levels, C3 to C5, also those that were published on C2 to C5 (FPG,
AFPN): `--levels C2 C3 C4 C5` is theirs.

The floor are the calls of aten's convolution (also transposed), addmm and mm, and of their backward forms, that one pass of the neck made:
called again, in the same order, with the very same tensors (so of the same shapes, strides and memory format), nothing between them.
They are those of the neck as it is drawn: a concatenation's 1x1 convolution stands after maps are enlarged, where it costs more products
than before, which is where the neck computes it (`Concat.linear_parts`; `ion`, `concat_fpn`).
Biases, linear layers and the product inside a deformable convolution belong to it. Normalisation, activation, resizing, fusion, sampling,
batched products (attention, CARAFE) and autograd's own work do not. Neck and floor run in turn, in both memory formats; the ratio is that
of the medians. As in training, freed memory is kept (fusion_det/engine/memory.py). Sections of the page that follow the table stay.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fusion_det.config.cli import load_settings
from fusion_det.config.instantiate import build
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.engine.memory import keep_freed_memory
from fusion_det.necks.fusion_neck import FusionNeck
from fusion_det.structures import LevelSpec

RESNET50 = {f"C{i}": LevelSpec(f"C{i}", 64 << i, 1 << i) for i in (2, 3, 4, 5)}
NECKS = sorted(file.stem for file in (default_config_dir() / "neck").glob("*.yaml"))
FORMATS = {"channels_last": torch.channels_last, "NCHW": torch.contiguous_format}
aten = torch.ops.aten
LINEAR = {aten.convolution.default, aten.convolution_backward.default, aten.addmm.default, aten.mm.default}
Call = Callable[[], Any]


class Recorder(TorchDispatchMode):
    """Keeps each linear call that is made inside, with its tensors, and counts their floating-point operations."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in LINEAR:
            self.calls.append(partial(func, *args, **(kwargs or {})))
            self.operations += count_operations(func, args, result)
        return result


def count_operations(func: Any, args: Sequence[Any], result: Any) -> int:
    """Floating-point operations, two for each product; borders and biases are not regarded."""
    if func in {aten.mm.default, aten.addmm.default}:
        left, right = args[-2:]
        return 2 * left.numel() * right.shape[1]
    if func is aten.convolution_backward.default:
        gradient, x, weight, transposed, products = *args[:3], args[7], sum(args[10][:2])
        coarse = x if transposed else gradient
    else:
        x, weight, transposed, products = *args[:2], args[6], 1
        coarse = x if transposed else result
    return 2 * products * weight.numel() * coarse.shape[0] * coarse.shape[2:].numel()


class Arm:
    """One neck in one memory format; ``neck`` and ``floor`` run it and its convolutions once and give the seconds."""

    def __init__(self, neck: FusionNeck, maps: Sequence[Tensor], memory_format: torch.memory_format, precision: str) -> None:
        self.module = neck.to(memory_format=memory_format)
        self.maps = [m.contiguous(memory_format=memory_format).requires_grad_() for m in maps]
        self.device, self.precision = maps[0].device, precision
        self.gradients = [torch.randn_like(output) for output in self._forward()]
        early, neck.early = neck.early, set()
        with Recorder() as recorder:
            self._pass()
        neck.early = early
        self.calls, self.operations = recorder.calls, recorder.operations

    def _forward(self) -> list[Tensor]:
        cast = torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else contextlib.nullcontext()
        with cast:
            return self.module(self.maps)

    def _pass(self) -> None:
        torch.autograd.backward(self._forward(), self.gradients)

    def neck(self) -> float:
        for tensor in (*self.maps, *self.module.parameters()):
            tensor.grad = None
        return self._time(self._pass)

    def floor(self) -> float:
        with torch.no_grad():
            return self._time(self._calls)

    def _calls(self) -> None:
        for call in self.calls:
            call()

    def _time(self, work: Call) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin


def make_neck(name: str, levels: Sequence[LevelSpec], channels: int) -> FusionNeck:
    words = ["data=coco", "data.root=.", "experiment=null", f"neck={name}", f"neck.channels={channels}"]
    cfg = load_settings(get_tool("train"), words, default_config_dir()).plain()
    torch.manual_seed(0)
    return build(cfg["neck"], levels, partial(build, cfg["fusion"]), partial(build, cfg["block"])).train()


def measure(name: str, arguments: argparse.Namespace) -> str:
    """One row of the table."""
    levels = [RESNET50[level] for level in arguments.levels]
    device, (height, width) = torch.device(arguments.device), arguments.size
    arms = {}
    for memory_format in FORMATS:
        neck = make_neck(name, levels, arguments.channels).to(device)
        maps = [torch.randn(arguments.batch, s.channels, -(-height // s.stride), -(-width // s.stride), device=device) for s in levels]
        arms[memory_format] = Arm(neck, maps, FORMATS[memory_format], arguments.precision)
    works = {(kind, key): getattr(arm, kind) for key, arm in arms.items() for kind in ("neck", "floor")}
    times: dict[tuple[str, str], list[float]] = {key: [] for key in works}
    begin, done = time.perf_counter(), 0
    while done < arguments.rounds or (time.perf_counter() - begin < arguments.seconds and done < 10 * arguments.rounds):
        for key, work in works.items():
            times[key].append(work())
        done += 1
    parameters = sum(p.numel() for p in neck.parameters())
    row = [name, f"{parameters / 1e6:.2f}", f"{arms['channels_last'].operations / 1e9:.1f}"]
    for key in FORMATS:
        after = {kind: times[kind, key][arguments.warmup :] for kind in ("neck", "floor")}
        middle = {kind: statistics.median(values) for kind, values in after.items()}
        fastest = {kind: min(values) for kind, values in after.items()}
        row += [f"{1e3 * middle['neck']:.1f}", f"{1e3 * middle['floor']:.1f}"]
        row += [f"{middle['neck'] / middle['floor']:.2f}", f"{fastest['neck'] / fastest['floor']:.2f}"]
    return "| " + " | ".join([*row, str(done - arguments.warmup)]) + " |"


def head(arguments: argparse.Namespace) -> list[str]:
    cuda = torch.device(arguments.device).type == "cuda"
    processor = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    columns = ["neck", "parameters, M", "floor, GFLOP"]
    for key in FORMATS:
        columns += [f"{key}: neck, ms", "floor, ms", "ratio of medians", "of the fastest"]
    return [
        f"{date.today()}, {processor}, Python {platform.python_version()}, torch {torch.__version__}; {arguments.precision}, "
        f"batch {arguments.batch}, levels {', '.join(arguments.levels)} of {arguments.size[0]} x {arguments.size[1]} px, "
        f"{arguments.channels} channels; at least {arguments.rounds - arguments.warmup} alternated rounds after {arguments.warmup}, "
        f"more for at least {arguments.seconds:g} s a neck",
        "",
        "| " + " | ".join([*columns, "rounds"]) + " |",
        "|" + "---|" * (len(columns) + 1),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--necks", nargs="+", choices=NECKS, default=NECKS, metavar="NECK")
    parser.add_argument("--levels", nargs="+", choices=sorted(RESNET50), default=["C3", "C4", "C5"])
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as training does
    lines = head(arguments)
    print("\n".join(lines), flush=True)
    for name in arguments.necks:
        lines.append(measure(name, arguments))
        print(lines[-1], flush=True)
    if arguments.out:
        _, mark, notes = (arguments.out.read_text() if arguments.out.exists() else "").partition("\n## ")
        arguments.out.write_text("# Time of each neck against its bare convolutions\n\n" + "\n".join(lines) + "\n" + mark + notes)


if __name__ == "__main__":
    main()
