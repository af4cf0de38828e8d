"""Types in words: ``Annotated[float, Field(ge=0, le=1)]`` is "a number from 0 to 1"."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fusion_det.config.annotations import Component
from fusion_det.config.instantiate import TARGET

_ONE = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null", dict: "a mapping", list: "a list"}
_MANY = {int: "whole numbers", float: "numbers", str: "texts", bool: "true/false values"}


@dataclass(frozen=True)
class Meaning:
    """Words for a type that its parts tell badly: ``Annotated[str, Field(pattern=...), Meaning("cpu or cuda")]``."""

    words: str


def describe(annotation: Any) -> str:
    """``annotation`` in words, to stand after "expected"."""
    base, limits = _split(annotation)
    origin, arguments = get_origin(base), get_args(base)
    if "words" in limits:
        return limits["words"]
    if annotation == Component:
        return f"a node with {TARGET}"
    if origin is Literal:
        return _choices(arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(option) for option in sorted(arguments, key=lambda option: option is type(None)))
    if origin in (list, Sequence) and arguments:
        return f"a list of {_plural(arguments[0])}{_length(limits)}"
    if origin is tuple:
        return _describe_tuple(arguments)
    if origin in (dict, Mapping) and arguments:
        return f"a mapping to {_plural(arguments[1])}"
    if isinstance(base, type) and issubclass(base, BaseModel):
        return f"a mapping with the keys {', '.join(base.model_fields)}"
    words = _ONE.get(base, "any value")
    return f"{words}{_range(limits, text=base is str)}"


def brief(value: Any, limit: int = 80) -> str:
    """``value`` as the user wrote it, cut to ``limit`` letters."""
    text = {None: "null", True: "true", False: "false"}.get(value, "") if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _split(annotation: Any) -> tuple[Any, dict[str, Any]]:
    """The bare type and its limits (``ge``, ``max_length``, ...), with nested ``Annotated`` and ``Field`` unpacked."""
    limits: dict[str, Any] = {}
    while get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
        for item in _flat(metadata):
            for word in ("ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern", "words"):
                if getattr(item, word, None) is not None:
                    limits[word] = getattr(item, word)
    return annotation, limits


def _flat(metadata: Iterable[Any]) -> Iterable[Any]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from item.metadata
        yield item


def _range(limits: dict[str, Any], *, text: bool) -> str:
    if text:
        return f" like {limits['pattern']}" if "pattern" in limits else ""
    low, high = limits.get("ge"), limits.get("le")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    words = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}", "multiple_of": "divisible by {}"}
    parts = [text.format(limits[word]) for word, text in words.items() if word in limits]
    return f" {' and '.join(parts)}" if parts else ""


def _length(limits: dict[str, Any]) -> str:
    low, high = limits.get("min_length"), limits.get("max_length")
    if low is None and high is None:
        return ""
    if low == high:
        return f", {low} of them"
    return f", {'at least ' + str(low) if high is None else f'{low or 0} to {high}'} of them"


def _plural(annotation: Any) -> str:
    base, limits = _split(annotation)
    return f"{_MANY[base]}{_range(limits, text=base is str)}" if base in _MANY else f"items, each {describe(annotation)}"


def _describe_tuple(arguments: tuple[Any, ...]) -> str:
    if len(arguments) == 2 and arguments[1] is ...:
        return f"a list of {_plural(arguments[0])}"
    return f"a list of {len(arguments)}: [{', '.join(describe(item) for item in arguments)}]"


def _choices(values: Iterable[Any]) -> str:
    words = [value if isinstance(value, str) else brief(value) for value in values]
    return f"one of {', '.join(words)}" if len(words) > 1 else f"{words[0]}"
