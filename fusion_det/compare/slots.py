"""How many jobs run at a time, and what of the machine each of them gets."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import Literal

_QUESTION = ("nvidia-smi", "--query-gpu=index", "--format=csv,noheader")


@dataclass(frozen=True)
class Slot:
    """A share of the machine that one job holds at a time."""

    number: int
    threads: int
    """CPU threads."""
    gpu: str | None = None
    """What CUDA_VISIBLE_DEVICES is set to; ``None``: it stays as it is."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the job's process."""
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        return threads | ({"CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu is not None else {})


def make_slots(jobs: int | Literal["auto"], *, gpus: list[str] | None = None, cores: int | None = None) -> list[Slot]:
    """``jobs`` equal shares of ``cores`` and ``gpus`` (found out if not given); ``auto``: one per GPU, or one.

    With more jobs than GPUs several share one, in turn; with fewer each has one and the rest stay idle.
    """
    gpus = find_gpus() if gpus is None else gpus
    cores = core_count() if cores is None else cores
    count = max(1, len(gpus)) if jobs == "auto" else jobs
    threads = max(1, cores // count)
    return [Slot(number, threads, gpus[number % len(gpus)] if len(gpus) > 1 else None) for number in range(count)]


def core_count() -> int:
    """The cores that this process may use; ``OMP_NUM_THREADS`` limits them further."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(wanted)) if wanted.isdigit() and int(wanted) > 0 else cores


def find_gpus() -> list[str]:
    """The GPUs that this process may use: those of CUDA_VISIBLE_DEVICES, or all that the driver lists."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    if shutil.which(_QUESTION[0]) is None:
        return []
    try:
        answer = subprocess.run(_QUESTION, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip().isdigit()] if answer.returncode == 0 else []
