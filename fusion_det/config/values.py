"""Checking values against a signature or a settings model: every fault at once, each with its full key and the nearest valid one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from fusion_det.config.describe import brief, describe
from fusion_det.config.instantiate import TARGET
from fusion_det.config.signature import Key, Signature, read_signature
from fusion_det.config.source import Sources
from fusion_det.config.suggest import nearest_key
from fusion_det.errors import ConfigError

STRICT = ConfigDict(strict=True, allow_inf_nan=False)
"""No "3" for 3, no true for 1, no NaN; a whole number may stand for a number."""

MISSING = "???"
"""Hydra's mark of a value that the user must give."""


def check_node(node: Mapping[str, Any], where: str, sources: Sources | None = None, valid: Iterable[str] = ()) -> list[ConfigError]:
    """All faults of a component node and of the nodes inside it; ``valid`` are further dotted keys that a typo may have meant."""
    sources = sources or Sources()
    if TARGET not in node:
        return [ConfigError(f"no {TARGET} (got {brief(dict(node))})", where=where, mend=f"choose an option: {where}=NAME")]
    try:
        signature = read_signature(node[TARGET], sources)
    except ConfigError as error:
        return [type(error)(error.what, where=error.where or f"{where}.{TARGET}", mend=error.mend)]
    faults = check_values({key: value for key, value in node.items() if key != TARGET}, signature, where, valid)
    for key, value in node.items():
        for path, inner in _inner_nodes(value, f"{where}.{key}"):
            faults += check_node(inner, path, sources, valid)
    return faults


def check_values(values: Mapping[Any, Any], signature: Signature, where: str, valid: Iterable[str] = ()) -> list[ConfigError]:
    """Unknown and missing keys and values of the wrong type or range, one fault each. ``???`` is not a fault here."""
    faults = []
    names = [_join(where, name) for name in signature.keys]
    for key, value in values.items():
        path = _join(where, str(key))
        if key in signature.keys:
            faults += _check_value(value, signature.keys[key], path)
        elif key in signature.positional:
            faults.append(ConfigError(f"is a run-time part, not a config key (got {brief(value)})", where=path, mend="remove it"))
        elif not signature.open:
            faults.append(unknown_key(path, value, [*names, *valid]))
    for name, key in signature.keys.items():
        if key.required and name not in values:
            faults.append(ConfigError(f"missing, expected {describe(key.annotation)}", where=_join(where, name), mend="add the key"))
    return faults


def unknown_key(path: str, value: Any, valid: Iterable[str]) -> ConfigError:
    """The fault of a key that nothing reads, with the nearest valid one."""
    valid = list(valid)
    close = nearest_key(path, valid)
    siblings = sorted({v.rpartition(".")[2] for v in valid if v.rpartition(".")[0] == path.rpartition(".")[0]})
    mend = f"did you mean {close}?" if close else f"keys here: {', '.join(siblings) or 'none'}"
    return ConfigError(f"unknown key (got {brief(value)})", where=path, mend=mend)


def of_model(model: type[BaseModel]) -> Signature:
    """The same view of a pydantic model."""
    return Signature({name: Key(info.rebuild_annotation(), info.is_required()) for name, info in model.model_fields.items()})


def _check_value(value: Any, key: Key, path: str) -> list[ConfigError]:
    wrong = [ConfigError(f"got {brief(value)}, expected {describe(key.annotation)}", where=path)]
    if isinstance(value, str) and value == MISSING:
        return []
    if isinstance(key.annotation, type) and issubclass(key.annotation, BaseModel):
        return check_values(value, of_model(key.annotation), path) if isinstance(value, Mapping) else wrong
    try:
        TypeAdapter(key.annotation, config=STRICT).validate_python(value)
    except ValidationError:
        return wrong
    return []


def _inner_nodes(value: Any, path: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        if TARGET in value:
            yield path, value
        else:
            for key, item in value.items():
                yield from _inner_nodes(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _inner_nodes(item, f"{path}.{index}")


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
