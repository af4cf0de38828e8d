"""What a checkpoint may hold: tensors in plain containers, so that reading one needs no code and no class of ours."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fusion_det.errors import FusionDetError

_SCALARS = (str, int, float, bool, type(None))
_TENSORS = (Tensor, torch.nn.Parameter)
_CONTAINERS = (dict, OrderedDict, list, tuple)
_DEEPEST = 64


def plain_state(value: Any, path: str = "state", depth: int = 0) -> Any:
    """``value`` with every container copied as a plain dict, list or tuple; tensors and scalars are the same objects.

    Raises :class:`TypeError` naming the key path of anything else. Types must match exactly: a numpy float is a ``float`` and a named
    tuple is a ``tuple`` to ``isinstance``, yet both are pickled as classes that a safe reader refuses.
    """
    kind = type(value)
    if kind in _SCALARS or kind in _TENSORS:
        return value
    if kind not in _CONTAINERS:
        raise TypeError(
            f"{path}: expected a tensor, str, int, float, bool, None, dict, list or tuple, got {kind.__module__}.{kind.__name__}"
        )
    if depth == _DEEPEST:
        raise TypeError(f"{path}: expected at most {_DEEPEST} nested containers, got more; does one contain itself?")
    if kind in (list, tuple):
        return kind(plain_state(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value))
    for key in value:
        if type(key) not in (str, int):
            raise TypeError(f"{path}: expected str or int keys, got {key!r} of {type(key).__module__}.{type(key).__name__}")
    return {key: plain_state(item, f"{path}[{key!r}]", depth + 1) for key, item in value.items()}


def refuse_non_finite(state: dict[str, Any], *keys: str) -> None:
    """Raise :class:`FusionDetError` naming the first tensor under ``state[key]`` that holds NaN or infinity."""
    for key in keys:
        for name, tensor in _tensors(state.get(key), key):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                broken = int((~torch.isfinite(tensor)).sum())
                raise FusionDetError(
                    f"{broken} of {tensor.numel()} numbers of {name} are not finite, so the checkpoint is not written",
                    mend="the last good checkpoint is kept; resume from it with a smaller learning rate or with gradient clipping",
                )


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{name}.{index}")
