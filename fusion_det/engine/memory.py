"""Memory that training gives back and needs again at once."""

from __future__ import annotations

import ctypes
import os

# parameters of glibc's mallopt, from its malloc.h
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST = 2**30


def keep_freed_memory() -> bool:
    """Ask glibc to keep freed blocks of up to 1 GiB for the next step; whether it does.

    By default it hands large tensors back to the system, which clears them page by page when the next step asks again: a fifth to a
    third of a training step on a CPU. Peak memory is the same, but the process stays at it. Without glibc, or where the environment sets
    ``MALLOC_...`` variables, nothing happens.
    """
    if "CS_GNU_LIBC_VERSION" not in getattr(os, "confstr_names", {}) or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST)) and bool(mallopt(TRIM_THRESHOLD, LARGEST))
