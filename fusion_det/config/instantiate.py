"""From a config node to an object, in one hop: ``{_target_: fusion_det.necks.fusion_neck.FusionNeck, channels: 128}``.

This is the only gate through which a dotted name becomes code, also for configs found inside checkpoints. A name is resolved only if

1. its package is ``fusion_det`` or one that the *user* named in ``FUSION_DET_PLUGINS`` (comma-separated) or with ``--plugins``,
2. no part of it is private, and every step after the module is a class, so that ``fusion_det.x.os.system`` leads nowhere,
3. what it leads to is a class or function that was *defined* under that name in an allowed package, whatever alias was used,
4. the config fills keyword-only parameters (or fields of a data class) of it and nothing else.

Hydra is not needed here.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from types import ModuleType
from typing import Any

from fusion_det.config.suggest import nearest
from fusion_det.errors import ConfigError

TARGET = "_target_"
PLUGINS_VARIABLE = "FUSION_DET_PLUGINS"
OWN_PACKAGE = "fusion_det"
REFUSED_PACKAGES = ("fusion_det.config",)
"""The command line and the file writers are no components; no config may start them."""

_NAME = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", re.ASCII)


class UnsafeError(ConfigError):
    """A ``_target_`` that is refused for safety; the object behind it was never touched."""


def build(node: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """The object of ``node``: its target called with the run-time ``args`` and ``kwargs`` and the node's own keys.

    Nested nodes with a ``_target_`` (also inside lists and plain mappings) arrive as ``functools.partial``, to be called by their
    owner with its run-time parts. Raises ``UnsafeError`` for a refused target, ``ConfigError`` for one that does not exist or does
    not take the keys; what the constructor itself raises comes through unchanged.
    """
    made = factory(node)
    twice = sorted(made.keywords.keys() & kwargs.keys())
    if twice:
        raise TypeError(f"{node[TARGET]}: {twice} come both from the config and from the call")
    return made(*args, **kwargs)


def factory(node: Mapping[str, Any]) -> functools.partial[Any]:
    """``node`` as a partial of its target that awaits the run-time parts."""
    if TARGET not in node:
        raise ConfigError(f"a node without {TARGET}: {dict(node)!r:.80}", mend=f"choose an option of its group or add {TARGET}")
    target = resolve(node[TARGET])
    own = {key: _with_factories(value) for key, value in node.items() if key != TARGET}
    _check_keywords(target, node[TARGET], own)
    return functools.partial(target, **own)


def resolve(name: object) -> Callable[..., Any]:
    """The class or function behind the dotted ``name``, if rules 1 to 3 of this module allow it."""
    dotted = check_name(name)
    module, rest = _import_longest(dotted)
    found: Any = module
    for part in rest:
        if found is not module and not inspect.isclass(found):
            raise _refusal(dotted, f"{part!r} is looked up on something that is not a class")
        if part not in vars(found):
            close = nearest(part, [word for word in vars(found) if not word.startswith("_")])
            raise ConfigError(
                f"{TARGET} {dotted!r}: {found.__name__} has no {part!r}", mend=f"did you mean {close!r}?" if close else "check the spelling"
            )
        found = getattr(found, part)
    _check_identity(dotted, found)
    return found


def check_name(name: object) -> str:
    """``name`` as a dotted name that passes rules 1 and 2; nothing is imported."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UnsafeError(f"{TARGET} {name!r:.120} is refused: not a public dotted name", mend="write package.module.Class")
    if not _is_allowed(name):
        raise _refusal(name, f"its package is not one of {', '.join(allowed_packages())}")
    return name


def allowed_packages() -> tuple[str, ...]:
    """``fusion_det`` and the plug-in packages that the user named in the environment or on the command line."""
    named = [part.strip() for part in os.environ.get(PLUGINS_VARIABLE, "").split(",")]
    return (OWN_PACKAGE, *(part for part in named if part))


def _is_allowed(module: str) -> bool:
    def inside(package: str) -> bool:
        return module == package or module.startswith(package + ".")

    return any(map(inside, allowed_packages())) and not any(map(inside, REFUSED_PACKAGES))


def _refusal(name: str, reason: str) -> UnsafeError:
    return UnsafeError(
        f"{TARGET} {name!r:.120} is refused for safety: {reason}",
        mend=f"if the code is yours, name its package: --plugins PACKAGE or {PLUGINS_VARIABLE}=PACKAGE",
    )


def _import_longest(dotted: str) -> tuple[ModuleType, list[str]]:
    """The deepest module along ``dotted`` and the parts left over, at least one; import failures show their real cause."""
    parts = dotted.split(".")
    name = parts[0]
    try:
        module = importlib.import_module(name)
        for count in range(2, len(parts)):
            name = ".".join(parts[:count])
            if not hasattr(module, "__path__") or importlib.util.find_spec(name) is None:
                return module, parts[count - 1 :]
            module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{TARGET} {dotted!r}: importing {name} failed: {type(error).__name__}: {error}{_place(error)}") from error
    return module, parts[-1:]


def _place(error: ImportError) -> str:
    """`` (file.py:12)`` of the innermost line outside the import system that failed, if there is one."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<frozen") and "importlib" not in file and file != __file__:
            place = f" ({file}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place


def _check_identity(dotted: str, found: Any) -> None:
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        raise _refusal(dotted, "it is neither a class nor a function")
    home, path = found.__module__, found.__qualname__
    if not isinstance(home, str) or not _is_allowed(home):
        raise _refusal(dotted, f"it is {home}.{path} under another name")
    real: Any = sys.modules.get(home)
    for part in path.split("."):
        real = vars(real).get(part) if real is not None and hasattr(real, "__dict__") else None
    if isinstance(real, (staticmethod, classmethod)):
        real = real.__func__
    if real is not found:
        raise _refusal(dotted, f"it is not what {home}.{path} defines")


def _with_factories(value: Any) -> Any:
    if isinstance(value, Mapping):
        return factory(value) if TARGET in value else {key: _with_factories(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_factories(item) for item in value]
    return value


def _check_keywords(target: Callable[..., Any], name: str, keys: Mapping[str, Any]) -> None:
    parameters = inspect.signature(target).parameters.values()
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    takes = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY or (p.kind is p.POSITIONAL_OR_KEYWORD and is_dataclass(target))]
    positional = [p.name for p in parameters if p.name not in takes and p.kind is p.POSITIONAL_OR_KEYWORD]
    for key in keys:
        if key in positional:
            raise ConfigError(
                f"{name}: {key!r} is a run-time part, not a config key", mend=f"a config fills keyword-only parameters: {takes}"
            )
        if key not in takes and not open_ended:
            close = nearest(key, takes)
            raise ConfigError(
                f"{name} has no key {key!r}", mend=f"did you mean {close!r}?" if close else f"its keys are {', '.join(takes) or 'none'}"
            )
