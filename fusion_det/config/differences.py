"""What two plain configs have in common, key by key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# What may differ between a run and its continuation, because none of it changes a weight.
FREE_KEYS = (
    "name",
    "run_dir",
    "resume",
    "init_from",
    "init_parts",
    "device",
    "eval",
    "logger",
    "loader.workers",
    "loader.eval_batch_size",
    "trainer.log_every",
    "trainer.checkpoint_every",
    "trainer.keep_checkpoints",
    "trainer.pictures",
    "trainer.eval_every",
    "data.root",
)


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as dotted keys; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def covers(keys: tuple[str, ...], key: str) -> bool:
    """Whether ``key`` is one of ``keys`` or lies inside one."""
    return any(key == outer or key.startswith(f"{outer}.") for outer in keys)


def differing(old: Mapping[str, Any], new: Mapping[str, Any], *, free: tuple[str, ...] = ()) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (old, new) for all that is not the same, ``free`` keys left out; a key that is missing counts as ``None``."""
    a, b = flatten(old), flatten(new)
    keys = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key) and not covers(free, key))
    return {key: (a.get(key), b.get(key)) for key in keys}


def digest(node: Mapping[str, Any], *, free: tuple[str, ...] = ()) -> str:
    """16 hexadecimal digits that are equal for configs which differ in ``free`` keys only."""
    flat = {key: value for key, value in flatten(node).items() if value is not None and not covers(free, key)}
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:16]
