"""Runs of tools/train.py for the benchmarks that train: one process each, kept when finished, gone on with otherwise."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]


def results_of(folder: Path) -> dict[str, Any] | None:
    """What ``results.json`` says, of a run that came to its end."""
    path = folder / "results.json"
    results = json.loads(path.read_text()) if path.is_file() else None
    return results if results and results["finished"] else None


def train_into(folder: Path, overrides: Sequence[str], threads: int) -> int:
    """Train unless ``folder`` holds a finished run; the exit code. The output goes to ``<folder>.log``."""
    if results_of(folder) is not None:
        return 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(REPOSITORY / "tools/train.py"), f"run_dir={folder}", "resume=auto", f"trainer.threads={threads}"]
    command += ["trainer.pictures=0", "logger.progress=false", *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(REPOSITORY)}
    with folder.with_suffix(".log").open("a") as log:
        return subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log, check=False).returncode


def add_run_arguments(parser: argparse.ArgumentParser, runs: Path) -> None:
    """Seeds, number of runs at a time, where runs are kept and the page goes, and further overrides."""
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=runs)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--finished", action="store_true", help="train nothing: the table of the runs that are finished")
    parser.add_argument("words", nargs="*", help="further overrides of every run, after --")
