"""Train every named neck with FCOS on the generated scenes, some seeds each, and put the final numbers into one table.

    python benchmarks/neck_learning.py --runs runs/neck_learning --out benchmarks/neck_learning.md
    python benchmarks/neck_learning.py --runs runs/neck_learning --finished      # no training: the table of what is there

Each run is `python tools/train.py neck=NECK seed=SEED`, the default recipe and budget, in a process of its own. Finished runs are kept
and unfinished ones go on, so the script can be stopped and started again; `--jobs 2` trains two at a time with half the cores each.
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
from training_runs import REPOSITORY, add_run_arguments, results_of, train_into

FACTORS = ("plain", "detail", "context", "scale", "precision")


@dataclass(frozen=True)
class Result:
    """What one run came to; ``None`` numbers if it has not finished."""

    neck: str
    seed: int
    ap: float | None
    ap50: float | None
    factors: dict[str, float]
    parameters: int
    seconds: float
    code: int


def train(folder: Path, neck: str, seed: int, threads: int, words: Sequence[str], *, finished: bool) -> Result:
    """Train one arm, or go on with it, or read what it came to; with ``finished`` only the last."""
    code = 0 if finished else train_into(folder, [f"neck={neck}", f"seed={seed}", *words], threads)
    results = results_of(folder)
    if results is None:
        return Result(neck, seed, None, None, {}, 0, 0.0, code)
    factors = {factor: 100 * results["per_supercategory"][factor]["AP"] for factor in FACTORS}
    summary = results["summary"]
    return Result(
        neck, seed, 100 * summary["AP"], 100 * summary["AP50"], factors, results["parameters"], results["seconds_of_this_process"], code
    )


def table(results: Sequence[Result], seeds: Sequence[int], header: str) -> str:
    """A row per neck: its APs, their mean and standard deviation, mean AP per factor, parameters of the whole detector."""
    lines = [
        header,
        "",
        "| neck | " + " | ".join(f"AP, seed {seed}" for seed in seeds) + " | mean | s.d. | AP50 | " + " | ".join(FACTORS) + " | M param. |",
        "|---" * (len(seeds) + 5 + len(FACTORS)) + "|",
    ]
    for neck in dict.fromkeys(result.neck for result in results):
        rows = [result for result in results if result.neck == neck]
        done = [row for row in rows if row.ap is not None]
        cells = [f"{row.ap:.1f}" if row.ap is not None else ("-" if not row.code else f"failed ({row.code})") for row in rows]
        if done:
            values = [row.ap for row in done if row.ap is not None]
            spread = f"{statistics.stdev(values):.1f}" if len(values) > 1 else "-"
            cells += [f"**{statistics.mean(values):.1f}**", spread, f"{statistics.mean(row.ap50 or 0.0 for row in done):.1f}"]
            cells += [f"{statistics.mean(row.factors[factor] for row in done):.1f}" for factor in FACTORS]
            cells.append(f"{done[0].parameters / 1e6:.2f}")
        lines.append(f"| `{neck}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    named = sorted(path.stem for path in (REPOSITORY / "configs/neck").glob("*.yaml"))
    parser.add_argument("--necks", nargs="+", default=named, choices=named)
    add_run_arguments(parser, Path("runs/neck_learning"))
    arguments = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    arms = [(neck, seed) for seed in arguments.seeds for neck in arguments.necks]
    header = (
        f"{date.today()}, {platform.machine()} CPU, {os.cpu_count()} cores, {arguments.jobs} run(s) at a time, "
        f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}. "
        "Final AP x 100, pycocotools, averaged weights; factors and AP50 are means over the seeds."
    )

    def run(arm: tuple[str, int]) -> Result:
        begin = time.perf_counter()
        folder = arguments.runs.resolve() / f"{arm[0]}-{arm[1]}"
        result = train(folder, *arm, threads, arguments.words, finished=arguments.finished)
        print(f"{arm[0]} seed {arm[1]}: AP {result.ap}, exit {result.code}, {time.perf_counter() - begin:.0f} s", flush=True)
        return result

    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(run, arms))
    text = table(results, arguments.seeds, header)
    print(text)
    if arguments.out:
        arguments.out.write_text(text)
    sys.exit(any(result.ap is None for result in results))


if __name__ == "__main__":
    main()
