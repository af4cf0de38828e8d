"""From the text of an annotation to a type that can be checked, without running any of it.

Only words of a fixed list are understood (see ``_PLAIN`` and ``_evaluate``); whatever else occurs makes the whole annotation ``Any``,
so a key is then accepted here and left to its owner.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BeforeValidator, Field, Strict

from fusion_det.config.instantiate import TARGET
from fusion_det.config.source import Definition, External, Module, Sources

MAX_DEPTH = 50


def _require_node(value: Any) -> Any:
    if not isinstance(value, Mapping) or TARGET not in value:
        raise ValueError(f"expected a node with {TARGET}")
    return value


Component = Annotated[Any, BeforeValidator(_require_node)]
"""What a ``Callable`` parameter takes in a config: a nested node, which arrives as a factory."""


class _NotUnderstood(Exception):
    """The annotation holds something outside the list."""


_PYDANTIC = {
    f"pydantic.{name}": getattr(pydantic, name)
    for sign in ("Positive", "NonNegative", "Negative", "NonPositive")
    for name in (f"{sign}Int", f"{sign}Float")
}
_PLAIN: dict[str, Any] = {
    "builtins.int": int,
    "builtins.float": float,
    "builtins.bool": bool,
    "builtins.str": str,
    "builtins.list": list,
    "builtins.dict": dict,
    "builtins.tuple": Annotated[tuple, Strict(False)],
    "builtins.object": Any,
    "typing.Any": Any,
    "typing.Callable": Component,
    "collections.abc.Callable": Component,
    "pathlib.Path": str,
    "os.PathLike": str,
    "pydantic.StrictInt": int,
    "pydantic.StrictFloat": float,
    "pydantic.StrictBool": bool,
    "pydantic.StrictStr": str,
    "pydantic.FiniteFloat": float,
    **_PYDANTIC,
}
_LISTS = {"builtins.list", "typing.List"}
_SEQUENCES = {"collections.abc.Sequence", "typing.Sequence", "collections.abc.Iterable", "typing.Iterable"}
_MAPPINGS = {"builtins.dict", "typing.Dict", "collections.abc.Mapping", "typing.Mapping"}
_TUPLES = {"builtins.tuple", "typing.Tuple"}
_LIMITS = {"ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern"}


def evaluate(expression: ast.expr | None, module: Module, sources: Sources) -> Any:
    """The type that ``expression`` means inside ``module``; ``Any`` for none and for what is not understood."""
    if expression is None:
        return Any
    try:
        return _evaluate(expression, module, sources, 0)
    except _NotUnderstood:
        return Any


def _evaluate(node: ast.expr, module: Module, sources: Sources, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise _NotUnderstood

    def again(part: ast.expr, where: Module = module) -> Any:
        return _evaluate(part, where, sources, depth + 1)

    if isinstance(node, ast.Constant):
        if node.value is None:
            return None
        if isinstance(node.value, str):
            return again(_parse_text(node.value))
        raise _NotUnderstood
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _either([again(node.left), again(node.right)])
    if isinstance(node, ast.Subscript):
        items = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        return _subscript(_full_name(node.value, module, sources), items, again)
    found = _full_name(node, module, sources)
    if isinstance(found, Definition):
        if isinstance(found.node, ast.expr):
            return again(found.node, found.module)
        raise _NotUnderstood
    if found not in _PLAIN:
        raise _NotUnderstood
    return _PLAIN[found]


def _subscript(name: str | Definition, items: list[ast.expr], again: Callable[..., Any]) -> Any:
    if name == "typing.Literal":
        return Literal[tuple(_constant(item) for item in items)]
    if name == "typing.Annotated":
        return Annotated[again(items[0]), Field(**_limits(items[1:], again))]
    if name in ("typing.Callable", "collections.abc.Callable"):
        return Component
    if name == "typing.Optional":
        return _either([again(items[0]), None])
    if name == "typing.Union":
        return _either([again(item) for item in items])
    if name in _TUPLES:
        many = len(items) == 2 and isinstance(items[1], ast.Constant) and items[1].value is ...
        inner: Any = (again(items[0]), ...) if many else tuple(again(item) for item in items)
        return Annotated[tuple.__class_getitem__(inner), Strict(False)]  # YAML knows lists only
    if name in _LISTS:
        return list[again(items[0])]  # type: ignore[misc]
    if name in _SEQUENCES:
        return Sequence[again(items[0])]  # type: ignore[misc]
    if name in _MAPPINGS and len(items) == 2:
        return dict[again(items[0]), again(items[1])]  # type: ignore[misc]
    raise _NotUnderstood


def _either(options: list[Any]) -> Any:
    if Any in options:
        return Any  # nothing can be refused
    return functools.reduce(operator.or_, options)


def _limits(items: list[ast.expr], again: Callable[..., Any]) -> dict[str, Any]:
    """The keyword limits of ``Field(ge=0, le=1)`` and ``Ge(0)``; other metadata says nothing about values and is passed over."""
    limits: dict[str, Any] = {}
    for item in items:
        if not isinstance(item, ast.Call):
            continue
        word = item.func.attr if isinstance(item.func, ast.Attribute) else getattr(item.func, "id", "")
        if word in ("Ge", "Gt", "Le", "Lt") and len(item.args) == 1:
            limits[word.lower()] = _constant(item.args[0])
        elif word == "Field":
            limits |= {k.arg: _constant(k.value) for k in item.keywords if k.arg in _LIMITS}
    return limits


def _constant(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(number := _constant(node.operand), int | float):
        return -number
    raise _NotUnderstood


def _parse_text(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise _NotUnderstood from error


def _full_name(node: ast.expr, module: Module, sources: Sources) -> str | Definition:
    """``typing.Literal`` for ``Literal`` or ``t.Literal``; a definition for names of our own packages."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise _NotUnderstood
    if node.id not in module.names:
        return ".".join(["builtins", node.id, *attributes])
    found = sources.name(module, node.id)
    if isinstance(found, External):
        full = ".".join([found.name, *attributes])
        found = sources.find(full) if attributes else found
        if isinstance(found, External):
            return found.name.replace("typing_extensions.", "typing.")
    if isinstance(found, Definition):
        return found
    raise _NotUnderstood
