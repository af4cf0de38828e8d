"""A file of weights (a plain state dict, as torchvision publishes them) into a network of ours with the same parameter names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fusion_det.errors import CheckpointError, ConfigError

KEY = "backbone.weights"


def load_state_file(
    net: nn.Module,
    file: str,
    *,
    optional: Callable[[str], bool],
    ignored: Callable[[str], bool],
    network: str = "a ResNet with the same block, depths and widths",
    adapt: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict,
    key: str = KEY,
) -> None:
    """Copy the tensors of ``file`` into ``net``; all or none.

    ``optional``: names of ``net`` that keep their initial values if the file has none; ``ignored``: names in the file that ``net`` needs
    not have. ``network``: what the file should be of, for messages; ``adapt`` brings its names and shapes to ours; ``key``: what named
    the file. ``ConfigError`` for a file that is not there, ``CheckpointError`` for one that is damaged or does not fit.
    """
    path = Path(file).expanduser()
    where = f"{key}={path}"
    if not path.is_file():
        raise ConfigError(f"no such file {str(path)!r}", where=key, mend=f"give a file of weights, or train from scratch with {key}=null")
    mend = f"use a state dict of {network}, or {key}=null"
    found, wanted = adapt(read_tensors(path, where, mend)), net.state_dict()
    used = {name: value for name, value in found.items() if name in wanted}
    faults = _tell("lacks", [name for name in wanted.keys() - used.keys() if not (optional(name) or name.endswith("num_batches_tracked"))])
    faults += _tell("has besides", [name for name in found.keys() - used.keys() if not ignored(name)])
    different = {name: value for name, value in used.items() if value.shape != wanted[name].shape}
    faults += _tell("differs in", [f"{name} {list(v.shape)} instead of {list(wanted[name].shape)}" for name, v in different.items()])
    if faults:
        raise CheckpointError(f"the weights do not fit: the file {'; '.join(faults)}", where=where, mend=mend)
    net.load_state_dict(wanted | used)


def read_tensors(path: Path, where: str, mend: str) -> dict[str, Tensor]:
    """The names and tensors of a plain state dict, on the CPU; nothing else is ever read from a file. ``CheckpointError`` otherwise."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many kinds for damaged and foreign files, none of them a common base
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CheckpointError(f"cannot be read as tensors: {reason:.120}", where=where, mend=mend) from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"expected a mapping of names to tensors, got {type(content).__name__}", where=where, mend=mend)
    return {str(name): value for name, value in content.items()}


def _tell(fault: str, names: list[str]) -> list[str]:
    """At most three of ``names`` and the number of the others."""
    if not names:
        return []
    names = sorted(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{fault} {', '.join(names[:3])}{more}"]
