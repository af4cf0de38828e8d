"""Runs of tools/train.py for the benchmarks that train: one process each, kept when finished, gone on with otherwise."""

from __future__ import annotations

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
