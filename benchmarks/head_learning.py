"""Train every head on four kinds of neck with the generated scenes, some seeds each, and put the final numbers into one table.

    python benchmarks/head_learning.py --jobs 2 --out benchmarks/head_learning.md
    python benchmarks/head_learning.py --finished      # no training: the table of what is there

Each run is `python tools/train.py head=HEAD_small neck=NECK seed=SEED`, the default recipe and budget, in a process of its own; finished
runs are kept and unfinished ones go on. A neck that gives one level (`hypernet`) gets boxes of all sizes at that one, in `ONE_LEVEL`;
SSD's boxes are two sizes a level, so SSD on one level is left out. FCOS is the measure: a head is good if its mean is within FCOS's spread
or above. Sections of the page that follow the table stay.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
import torchvision
from training_runs import add_run_arguments, results_of, train_into

HEADS = ("fcos", "retinanet", "gfl", "ssd", "faster_rcnn", "mscnn", "hypernet")
NECKS = ("none", "fpn", "hypernet", "ssd")
FACTORS = ("plain", "detail", "context", "scale", "precision")
ONE_LEVEL = {
    "fcos": [],
    "gfl": [],
    "hypernet": [],
    "retinanet": ["head.anchor_sizes=[[8,10,12,15,18,22,28,40,80]]", "head.aspect_ratios=[1.0]", "head.anchor_offset=0.5"],
    "faster_rcnn": ["head.rpn.anchor_sizes=[[16,32,64]]"],
    "mscnn": [
        "head.rpn.kernels=[[[3,3],[5,5],[5,5],[7,7],[7,7],[7,7]]]",
        "head.rpn.template_sizes=[[[12,12],[20,20],[24,24],[40,40],[48,48],[80,80]]]",
        "head.rpn.level_weights=[1.0]",
    ],
}


@dataclass(frozen=True)
class Arm:
    """One detector and one seed."""

    head: str
    neck: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.head}-{self.neck}-{self.seed}"

    @property
    def overrides(self) -> list[str]:
        boxes = ONE_LEVEL[self.head] if self.neck == "hypernet" else []
        return [f"head={self.head}_small", f"neck={self.neck}", f"seed={self.seed}", *boxes]


def arms_of(heads: Sequence[str], necks: Sequence[str], seeds: Sequence[int]) -> list[Arm]:
    """All sensible arms, first all of the first seed."""
    return [Arm(h, n, s) for s in seeds for n in necks for h in heads if not (h == "ssd" and n == "hypernet")]


def table(arms: Sequence[Arm], seeds: Sequence[int], runs: Path) -> str:
    """A row per detector: its APs, their mean and standard deviation, mean AP per factor, parameters, core seconds."""
    titles = ["neck", "head", *(f"AP, seed {seed}" for seed in seeds), "mean", "s.d.", "- FCOS", "AP50", *FACTORS, "M param."]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    means: dict[str, float] = {}
    for head, neck in dict.fromkeys((arm.head, arm.neck) for arm in sorted(arms, key=lambda arm: NECKS.index(arm.neck))):
        results = {arm.seed: results_of(runs / arm.name) for arm in arms if (arm.head, arm.neck) == (head, neck)}
        done = [found for found in results.values() if found]
        cells = [f"{100 * found['summary']['AP']:.1f}" if (found := results.get(seed)) else "-" for seed in seeds]
        if done:
            values = [100 * found["summary"]["AP"] for found in done]
            mean = statistics.mean(values)
            if head == "fcos":
                means[neck] = mean
            difference = f"{mean - means[neck]:+.1f}" if neck in means else "-"
            cells += [f"**{mean:.1f}**", f"{statistics.stdev(values):.1f}" if len(values) > 1 else "-", difference]
            cells.append(f"{statistics.mean(100 * found['summary']['AP50'] for found in done):.1f}")
            cells += [f"{statistics.mean(100 * found['per_supercategory'][factor]['AP'] for found in done):.1f}" for factor in FACTORS]
            cells.append(f"{done[0]['parameters'] / 1e6:.2f}")
        cells += ["-"] * (len(titles) - 2 - len(cells))
        lines.append(f"| `{neck}` | `{head}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", nargs="+", default=HEADS, choices=HEADS)
    parser.add_argument("--necks", nargs="+", default=NECKS, choices=NECKS)
    add_run_arguments(parser, Path("runs/head_learning"))
    arguments = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    arms, runs = arms_of(arguments.heads, arguments.necks, arguments.seeds), arguments.runs.resolve()

    def run(arm: Arm) -> None:
        begin = time.perf_counter()
        code = train_into(runs / arm.name, [*arm.overrides, *arguments.words], threads)
        found = results_of(runs / arm.name)
        print(f"{arm.name}: AP {found['summary']['AP'] if found else None}, exit {code}, {time.perf_counter() - begin:.0f} s", flush=True)

    if not arguments.finished:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(run, arms))
    text = (
        "# What the heads learn on the generated scenes\n\n"
        f"{date.today()}, {platform.machine()} CPU, {os.cpu_count()} cores, {arguments.jobs} run(s) at a time, Python "
        f"{platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}. Final AP x 100, pycocotools, "
        "averaged weights; factors and AP50 are means over the seeds.\n\n" + table(arms, arguments.seeds, runs)
    )
    print(text)
    if arguments.out:
        _, mark, notes = (arguments.out.read_text() if arguments.out.exists() else "").partition("\n## ")
        arguments.out.write_text(text + mark + notes)
    sys.exit(any(results_of(runs / arm.name) is None for arm in arms))


if __name__ == "__main__":
    main()
