"""Overrides that a tool does not read itself but hands on to another one: ``compare`` gives ``trainer.epochs=4`` to every training run."""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Sequence

from fusion_det.config.overrides import quote, split
from fusion_det.config.placed import INNER
from fusion_det.config.tools import Tool, get_tool

KEY = "overrides"
"""The list of the settings that takes what is handed on."""
_ENCLOSED = re.compile(r"""'.*'|".*"|\[.*\]|\{.*\}""", re.DOTALL)


def gather(tool: Tool, overrides: Sequence[str], groups: Collection[str]) -> list[str]:
    """The overrides of ``tool`` with those of the tool it passes on to gathered in one list, and texts and lists in Hydra's grammar.

    A key of neither stays, so that it is refused as unknown.
    """
    if not tool.passes_to:
        return list(overrides)
    mine = {*_fields(tool), *tool.groups, "local", "hydra"}
    theirs = {*_fields(get_tool(tool.passes_to)), *groups, *INNER} - mine
    own, handed = [], []
    for text in overrides:
        override = split(text)
        first = re.split(r"[./@]", override.key, maxsplit=1)[0]
        if first in theirs:
            handed.append(text)
        else:
            own.append(override._replace(value=_value(tool, override.key, override.value)).text)
    return [*own, f"{KEY}=[{','.join(map(quote, handed))}]"] if handed else own


def _fields(tool: Tool) -> Collection[str]:
    module, _, name = tool.settings.partition(":")
    fields: Collection[str] = getattr(importlib.import_module(module), name).model_fields
    return fields


def _value(tool: Tool, key: str, value: str | None) -> str | None:
    """``0,1,2`` of a list in brackets, a text in quotes."""
    if value is None or value in ("", "null", "???") or _ENCLOSED.fullmatch(value):
        return value
    if key in tool.lists and re.fullmatch(r"[\w.+-]+( *, *[\w.+-]+)*", value):
        return f"[{value}]"
    return quote(value) if key.partition(".")[0] in tool.texts else value
