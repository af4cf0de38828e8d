"""From a composed config to checked settings, or all that is wrong with it at once. Neither torch nor any component is imported."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fusion_det.config.instantiate import TARGET
from fusion_det.config.overrides import Override
from fusion_det.config.schema import COMPONENTS, Settings
from fusion_det.config.signature import read_signature
from fusion_det.config.source import Sources
from fusion_det.config.suggest import nearest
from fusion_det.config.tools import get_tool, list_groups
from fusion_det.config.values import MISSING, check_node, check_values, of_model, unknown_key
from fusion_det.convert.torchvision_models import PREFIX, split_source
from fusion_det.errors import ConfigError, raise_all

MUST_EXIST = ("checkpoint", "init_from", "source", "annotations", "images", "resume", "predictions", "gt", "dt")
"""Top-level keys whose path, or each of whose paths, must be there before anything is loaded (``resume=auto`` aside)."""
MUST_BE_FILES = {"checkpoint": ".pt", "init_from": ".pt", "predictions": ".json"}

AnySettings = TypeVar("AnySettings", bound=Settings)


def check_config(
    config: Mapping[str, Any],
    tool: str,
    config_dir: str | Path | Sequence[Path] | None = None,
    *,
    unknown: Sequence[Override] = (),
    faults: Sequence[ConfigError] = (),
    locate: Callable[[str], str | None] = lambda key: None,
) -> Any:
    """The settings object of ``tool`` (``TrainConfig``, ...), or all faults of ``config`` as one error.

    ``config_dir`` (one or several) serves the hints (options of a group). ``unknown`` and ``faults`` are what composing already
    refused; ``locate`` gives the file and line of a key.
    """
    module, _, name = get_tool(tool).settings.partition(":")
    model: type[Settings] = getattr(importlib.import_module(module), name)
    groups = list_groups((Path(config_dir),) if isinstance(config_dir, str | Path) else tuple(config_dir or ()))
    sources = Sources()
    named = [group for group in groups if group in model.model_fields or tool == "train"]
    valid = [*valid_keys(config, model, sources), *named]
    found = [*faults]
    found += [unknown_key(o.key, (o.value or "").strip("'\""), valid) for o in unknown if not _follows(o.key, faults)]
    found += _missing_values(config, "")
    found += [_with_options(fault, groups) for fault in check_values(config, of_model(model), "", valid)]
    for key in COMPONENTS:
        node = config.get(key)
        if key in model.model_fields and isinstance(node, Mapping) and (TARGET in node or tool == "train"):
            found += check_node(node, key, sources, valid)
    found += _missing_files({key: value for key, value in config.items() if key not in get_tool(tool).texts})
    raise_all([_with_place(fault, locate) for fault in found])
    return _validate(model, config)


def valid_keys(config: Mapping[str, Any], model: type[BaseModel], sources: Sources) -> list[str]:
    """Every dotted key that ``config`` could have: those of the settings and of the chosen components."""
    keys = []
    for name, info in model.model_fields.items():
        keys.append(name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys += [f"{name}.{inner}" for inner in info.annotation.model_fields]
        if isinstance(config.get(name), Mapping):
            keys += _component_keys(config[name], name, sources)
    return keys


def _component_keys(node: Mapping[str, Any], where: str, sources: Sources) -> list[str]:
    if TARGET not in node:
        return []
    try:
        keys = [f"{where}.{key}" for key in (TARGET, *read_signature(node[TARGET], sources).keys)]
    except ConfigError:
        return []  # told by check_node
    for key, value in node.items():
        if isinstance(value, Mapping):
            keys += _component_keys(value, f"{where}.{key}", sources)
    return keys


def _follows(key: str, faults: Sequence[ConfigError]) -> bool:
    """Whether ``key`` lies in a group whose option was refused, so that its unknown key is no fault of its own."""
    return any(key == fault.where or key.startswith(f"{fault.where}.") for fault in faults)


def _missing_values(node: object, where: str) -> list[ConfigError]:
    if isinstance(node, str) and node == MISSING:
        return [ConfigError("must be given", where=where, mend=f"add {where}=VALUE")]
    if isinstance(node, Mapping):
        return [fault for key, value in node.items() for fault in _missing_values(value, f"{where}.{key}" if where else str(key))]
    if isinstance(node, list):
        return [fault for index, value in enumerate(node) for fault in _missing_values(value, f"{where}.{index}")]
    return []


def _missing_files(config: Mapping[str, Any]) -> list[ConfigError]:
    faults = []
    for key in MUST_EXIST:
        values = config.get(key)
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str) or value == MISSING or (key == "resume" and value == "auto"):
                continue
            if key == "init_from" and value.startswith(PREFIX):
                try:
                    value = split_source(value, where=key)[1]
                except ConfigError as fault:
                    faults.append(fault)
                    continue
                if not value:  # a file of torch's cache, which is looked for when it is needed
                    continue
            path = Path(value)
            if not path.exists():
                faults.append(ConfigError(f"no such file or folder: {value}", where=key, mend=_nearby(path)))
            elif path.is_dir() and (suffix := MUST_BE_FILES.get(key)):
                inside = sorted(file.name for file in path.glob(f"*{suffix}"))
                mend = f"name a file in it: {', '.join(inside)}" if inside else f"name a {suffix} file"
                faults.append(ConfigError(f"is a folder: {value}", where=key, mend=mend))
    return faults


def _nearby(path: Path) -> str:
    parent = next((folder for folder in path.parents if folder.is_dir()), Path())
    try:
        names = sorted(file.name for file in parent.iterdir())
    except OSError:
        names = []
    wanted = path.relative_to(parent).parts[0] if path.is_relative_to(parent) else path.name
    close = nearest(wanted, names)
    return f"did you mean {parent / close}?" if close else f"{parent.absolute()} has no {wanted!r}"


def _with_options(fault: ConfigError, groups: Mapping[str, Collection[str]]) -> ConfigError:
    """A whole group that is missing or no node is mended by choosing an option."""
    if fault.where in groups and fault.where in COMPONENTS:
        return ConfigError(fault.what, where=fault.where, mend=f"choose {fault.where}=OPTION out of {', '.join(groups[fault.where])}")
    return fault


def _with_place(fault: ConfigError, locate: Callable[[str], str | None]) -> ConfigError:
    place = locate(fault.where) if fault.where else None
    if place is None:
        return fault
    mends = [fault.mend]
    if "experiment/" in place:  # a value that an experiment gives to a part which the user replaced is the usual cause
        unknown = fault.what.startswith("unknown key")  # one that is known may be needed
        mends += [f"or drop the key: ~{fault.where}"] * unknown + ["or leave the experiment out: experiment=null"]
    return type(fault)(fault.what, where=f"{fault.where} ({place})", mend="; ".join(filter(None, mends)))


def _validate(model: type[AnySettings], config: Mapping[str, Any]) -> AnySettings:
    try:
        return model.model_validate(dict(config))
    except ValidationError as error:  # rules over several keys, which have no single owner above
        raise_all([ConfigError(e["msg"].removeprefix("Value error, "), where=".".join(map(str, e["loc"]))) for e in error.errors()])
        raise
