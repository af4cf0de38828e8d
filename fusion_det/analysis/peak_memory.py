"""How much memory a piece of work takes at most."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""What Linux takes as the wish to count the peak anew (its proc(5))."""


class MemoryMeter:
    """Peaks on ``device``. On a GPU: memory of tensors, weights included (``torch.cuda.max_memory_allocated``).

    On a CPU torch keeps no account; there it is the rise of the process's resident memory over that at the start of the meter, which has in
    it what libraries allocate for themselves and what the allocator keeps. Not everywhere known (Linux has it).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.on_gpu = device.type == "cuda"
        self.start = None if self.on_gpu else _resident("VmRSS")

    @property
    def meaning(self) -> str:
        """What the numbers are, for people."""
        return "of tensors on the GPU, weights included" if self.on_gpu else "rise of the process's resident memory over the built model"

    def peak_of(self, work: Callable[[], object]) -> int | None:
        """Bytes at the peak of ``work``; ``None`` where that cannot be told."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            work()
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_allocated(self.device)
        fresh = _forget_peak()
        work()
        peak = _resident("VmHWM")
        return None if peak is None or self.start is None or not fresh else max(0, peak - self.start)


def _resident(key: str) -> int | None:
    """Bytes of resident memory now (``VmRSS``) or at the peak (``VmHWM``)."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), None)


def _forget_peak() -> bool:
    try:
        CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True
