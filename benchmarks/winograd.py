"""3x3 convolutions in float32: oneDNN's direct sum with weights in its order, and Winograd's algorithm, alternated in one process.

    python benchmarks/winograd.py --out benchmarks/winograd.md

``--threads`` as in torch.set_num_threads; wall-clock time, medians of rounds. What is timed is compared with a float64 sum first.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from datetime import date
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fusion_det.engine.memory import keep_freed_memory
from fusion_det.fast import winograd
from fusion_det.fast.packing import PackedConv2d
from fusion_det.fast.winograd import WinogradConv2d

NOTE = """Random maps and weights, padding 1, batch 2; freed memory is kept, as in prediction. *Taken*: whether
`fusion_det.fast.winograd` takes this way for such a map, by its constants `CHANNELS`, `WORK` and `FEWEST` (of which the timing knows
nothing: both ways are timed for every case). *Error*: the largest difference to the float64 sum over the largest number of it, of the
direct sum and of Winograd's. Not shown: other processors; the first call, which transforms the kernels."""
CASES = (
    (64, 64, 80), (64, 64, 150), (128, 128, 20), (128, 128, 40), (128, 128, 80), (128, 128, 150), (192, 192, 40), (256, 256, 10),
    (256, 256, 20), (256, 256, 40), (256, 819, 40), (256, 256, 75), (512, 512, 10), (512, 512, 19), (512, 512, 38),
)  # fmt: skip
"""C_in, C_out, height and width."""


def row(inputs: int, outputs: int, side: int, batch: int, rounds: int) -> str:
    torch.manual_seed(0)
    conv = nn.Conv2d(inputs, outputs, 3, padding=1)
    direct, other = PackedConv2d(conv), WinogradConv2d(conv)
    x = torch.randn(batch, inputs, side, side).contiguous(memory_format=torch.channels_last)
    taken = other._worth(x) and min(inputs, outputs) >= winograd.CHANNELS
    other._worth = lambda x: True  # type: ignore[method-assign]
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)  # type: ignore[union-attr]
    errors = [float((layer(x) - exact).abs().max() / exact.abs().max()) for layer in (direct, other)]
    times: list[list[float]] = [[], []]
    for number in range(2 + rounds):  # the first two are thrown away
        for found, layer in zip(times, (direct, other), strict=True):
            begin = time.perf_counter()
            layer(x)
            if number > 1:
                found.append(1e3 * (time.perf_counter() - begin))
    a, b = map(statistics.median, times)
    return (
        f"| {inputs} -> {outputs}, {side} x {side} | {a:.2f} | {b:.2f} | {a / b:.2f}x | {'yes' if taken else ''} "
        f"| {errors[0]:.0e} | {errors[1]:.0e} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    keep_freed_memory()
    lines = ["# Winograd's convolution against the direct sum", ""]
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    capability = torch.backends.cpu.get_cpu_capability()
    lines += [f"{date.today()}, {platform.machine()} CPU ({capability}), {versions}; medians of {args.rounds} rounds"]
    for threads in args.threads:
        torch.set_num_threads(threads)
        lines += ["", f"## {threads} thread(s)", ""]
        lines += [
            "| case | direct, ms | Winograd, ms | speed-up | taken | error, direct | error, Winograd |",
            "|---|---|---|---|---|---|---|",
        ]
        with torch.inference_mode():
            lines += [row(*case, batch=2, rounds=args.rounds) for case in CASES]
    text = "\n".join([*lines, "", NOTE, ""])
    sys.stdout.write(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
