"""The config keys of a component and their types, read from its source: nothing is imported, so a typo is told before torch loads."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from fusion_det.config.annotations import evaluate
from fusion_det.config.instantiate import check_name
from fusion_det.config.source import Definition, External, Sources

KEYLESS_BASES = {"torch.nn.Module", "abc.ABC", "typing.Protocol", "builtins.object", "pydantic.BaseModel"}
"""Bases outside our packages whose constructors take no keys."""


@dataclass(frozen=True)
class Key:
    """One config key: its type (``Any`` if unknown) and whether it may be left out."""

    annotation: Any
    required: bool


@dataclass(frozen=True)
class Signature:
    """What a target takes from a config. ``open`` accepts further keys (``**kwargs``); ``positional`` are run-time parts."""

    keys: dict[str, Key]
    positional: tuple[str, ...] = ()
    open: bool = False


def read_signature(target: str, sources: Sources | None = None) -> Signature:
    """The keys of the class or function ``target``; ``UnsafeError`` or ``ConfigError`` if the name may not or cannot be found."""
    sources = sources or Sources()
    definition = sources.target(check_name(target))
    if isinstance(definition.node, ast.ClassDef):
        return _of_class(definition, sources)
    assert isinstance(definition.node, ast.FunctionDef)
    return _of_function(definition, definition.node, sources)


def _of_function(definition: Definition, node: ast.FunctionDef, sources: Sources, *, method: bool = False) -> Signature:
    arguments = node.args
    keys = {
        argument.arg: Key(evaluate(argument.annotation, definition.module, sources), required=default is None)
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    }
    positional = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    return Signature(keys, tuple(positional[method:]), open=arguments.kwarg is not None)


def _of_class(definition: Definition, sources: Sources) -> Signature:
    assert isinstance(definition.node, ast.ClassDef)
    body = definition.node.body
    own = next((s for s in body if isinstance(s, ast.FunctionDef) and s.name == "__init__"), None)
    if own is not None:
        signature = _of_function(definition, own, sources, method=True)
        if not signature.open:
            return signature
        inherited = _of_bases(definition, sources)  # **kwargs of a class go on to its base
        positional = (*signature.positional, *inherited.positional)
        return Signature({**inherited.keys, **signature.keys}, positional, open=inherited.open or not inherited.keys)
    inherited = _of_bases(definition, sources)
    if _has_fields(definition, sources):
        return Signature({**inherited.keys, **_fields(definition, sources)})
    return inherited


def _of_bases(definition: Definition, sources: Sources) -> Signature:
    """The constructor that the class inherits: that of its first base with one."""
    for base in _bases(definition, sources):
        if isinstance(base, Definition) and isinstance(base.node, ast.ClassDef):
            signature = _of_class(base, sources)
            if signature != Signature({}):
                return signature
        elif not isinstance(base, External) or base.name not in KEYLESS_BASES:
            return Signature({}, open=True)  # a foreign constructor: its keys cannot be known here
    return Signature({})


def _bases(definition: Definition, sources: Sources) -> list[Definition | External | None]:
    assert isinstance(definition.node, ast.ClassDef)
    found = []
    for base in definition.node.bases:
        node: ast.expr = base.value if isinstance(base, ast.Subscript) else base
        dotted = ast.unparse(node)
        first, _, rest = dotted.partition(".")
        resolved = sources.name(definition.module, first)
        if resolved is None and first not in definition.module.names:
            resolved = External(f"builtins.{first}")
        if rest and isinstance(resolved, External):
            resolved = sources.find(f"{resolved.name}.{rest}")
        found.append(resolved)
    return found


def _has_fields(definition: Definition, sources: Sources) -> bool:
    """Whether annotated class attributes become constructor parameters."""
    assert isinstance(definition.node, ast.ClassDef)
    decorators = [d.func if isinstance(d, ast.Call) else d for d in definition.node.decorator_list]
    if any(ast.unparse(d).rpartition(".")[2] == "dataclass" for d in decorators):
        return True
    for base in _bases(definition, sources):
        if isinstance(base, External) and base.name == "pydantic.BaseModel":
            return True
        if isinstance(base, Definition) and isinstance(base.node, ast.ClassDef) and _has_fields(base, sources):
            return True
    return False


def _fields(definition: Definition, sources: Sources) -> dict[str, Key]:
    assert isinstance(definition.node, ast.ClassDef)
    keys = {}
    for statement in definition.node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if ast.unparse(statement.annotation).rpartition("ClassVar")[1]:
            continue
        annotation = evaluate(statement.annotation, definition.module, sources)
        required = statement.value is None
        if isinstance(statement.value, ast.Call) and ast.unparse(statement.value.func).rpartition(".")[2] in ("field", "Field"):
            words = {k.arg for k in statement.value.keywords}
            required = not (words & {"default", "default_factory"} or statement.value.args)
        keys[statement.target.id] = Key(annotation, required)
    return keys
