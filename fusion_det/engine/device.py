"""Device and precision, decided once and printed."""

from __future__ import annotations

import contextlib
import platform
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch

from fusion_det.errors import ConfigError


def choose_device(wanted: str) -> torch.device:
    """``auto`` takes the first GPU if there is one, else the CPU; a GPU that is asked for and absent is a ``ConfigError``."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            found = f"{count} GPU(s)" if count else "no GPU"
            raise ConfigError(f"{wanted} was asked for, but torch sees {found} here", where="device", mend="use device=auto or device=cpu")
    return device


def choose_precision(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> Literal["fp32", "bf16"]:
    """``auto`` takes bf16 where the hardware multiplies it natively (GPUs since Ampere; CPUs with avx512_bf16 or AMX), else fp32."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bf16" if native() else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Autocast to bf16, or nothing for fp32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def set_determinism(enabled: bool) -> None:
    """Ask torch for deterministic kernels (an operation without one then raises), or for the fastest ones."""
    torch.use_deterministic_algorithms(enabled)
    torch.backends.cudnn.benchmark = not enabled


def hardware_of(device: torch.device) -> str:
    """The GPU's name, or the CPU's and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"
