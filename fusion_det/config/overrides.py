"""What a user types, made fit for Hydra's override grammar: plain paths, ``group=null``, open mappings, ``--config-dir``."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from fusion_det.errors import ConfigError

PATH_KEYS = frozenset(
    [
        "checkpoint",
        "source",
        "output",
        "init_from",
        "resume",
        "run_dir",
        "annotations",
        "images",
        "root",
        "folder",
        "path",
        "file",
        "predictions",
        "weights",
        "gt",
        "dt",
    ]
)
"""Last parts of keys that hold a path; their values need no quotes, whatever letters they have."""

SEARCH_PATH = "hydra.searchpath"

_OVERRIDE = re.compile(r"(?P<mark>\+\+|\+|~)?(?P<key>[^=@]+)(?P<package>@[^=]*)?=(?P<value>.*)", re.DOTALL)
_ENCLOSED = re.compile(r"""'.*'|".*"|\[.*\]|\{.*\}""", re.DOTALL)


class Override(NamedTuple):
    """One override, split: ``++``, ``+`` or ``~``; the dotted key or group; the text after ``=`` (``None`` without one)."""

    mark: str
    key: str
    package: str
    value: str | None

    @property
    def text(self) -> str:
        return f"{self.mark}{self.key}{self.package}" + ("" if self.value is None else f"={self.value}")


def split(text: str) -> Override:
    """``text`` in its parts, without judging them."""
    match = _OVERRIDE.fullmatch(text)
    if match is None:
        mark = "~" if text.startswith("~") else ""
        return Override(mark, text[len(mark) :], "", None)
    return Override(match["mark"] or "", match["key"], match["package"] or "", match["value"])


def normalise(overrides: Sequence[str], groups: Collection[str], open_nodes: tuple[str, ...] = (), *, multirun: bool = False) -> list[str]:
    """The overrides in Hydra's grammar. Keys inside ``open_nodes`` need no ``+``; in a ``multirun`` paths may be swept.

    Raises ``ConfigError`` for settings of Hydra itself, which would do nothing here.
    """
    return [_normalise(split(text), groups, open_nodes, multirun=multirun).text for text in overrides]


def _normalise(override: Override, groups: Collection[str], open_nodes: tuple[str, ...], *, multirun: bool) -> Override:
    mark, key, package, value = override
    if key.startswith(("hydra.", "hydra/")) and key != SEARCH_PATH:
        raise ConfigError(
            "settings of Hydra itself have no effect here", where=override.text, mend="the run folder is chosen by run_dir=DIR"
        )
    if value is None or mark == "~":
        return override
    if key in groups and not value.startswith("{"):
        if value == "null" and not mark:
            return Override("~", key, package, None)  # Hydra takes `~group` but not `group=null`
        return override._replace(value=f"'{value}'") if re.fullmatch(r"[\d._]+|true|false", value) else override
    is_open = any(key == node or key.startswith(f"{node}.") for node in open_nodes)
    if not mark and (is_open or value.startswith("{")):
        # Hydra would blame a wrong key inside {...} on the mapping; once it is in, the checker names it.
        override = override._replace(mark="++")
    if key.rpartition(".")[2] in PATH_KEYS and key != SEARCH_PATH:
        override = override._replace(value=_quote_path(value, multirun=multirun))
    return override


def _quote_path(value: str, *, multirun: bool) -> str:
    """``value`` in quotes unless it is empty, ``null``, quoted already, a list, an interpolation or (in a multirun) a sweep."""
    if value in ("", "null", "???") or _ENCLOSED.fullmatch(value) or "${" in value:
        return value
    if value.startswith("~/"):
        value = str(Path(value).expanduser())
    if multirun and not Path(value).exists() and ("," in value or "(" in value):
        return value
    return quote(value)


def quote(value: str) -> str:
    """``value`` as a quoted string of Hydra's grammar, where backslashes count only before quotes."""
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", value)
    escaped = re.sub(r"(\\+)$", lambda match: match[1] * 2, escaped)
    return f"'{escaped}'"


def take_search_path(overrides: Sequence[str], config_dirs: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the other overrides, the search path entries) from ``--config-dir`` and ``hydra.searchpath=[...]``."""
    entries = [_entry(folder) for folder in config_dirs]
    rest = []
    for text in overrides:
        override = split(text)
        if override.key != SEARCH_PATH:
            rest.append(text)
            continue
        inside = (override.value or "").strip()
        if not (inside.startswith("[") and inside.endswith("]")):
            raise ConfigError(f"got {inside!r}, expected a list", where=SEARCH_PATH, mend=f"write '{SEARCH_PATH}=[file:///my/configs]'")
        entries += [_entry(part.strip().strip("'\"")) for part in inside[1:-1].split(",") if part.strip()]
    return rest, entries


def _entry(folder: str) -> str:
    """A search path entry with an absolute folder; ``ConfigError`` if it is not there."""
    if folder.startswith("pkg://"):
        return folder
    path = Path(folder.removeprefix("file://")).expanduser().absolute()
    if not path.is_dir():
        raise ConfigError("no such folder", where=str(path), mend="give --config-dir an existing folder of config groups")
    return f"file://{path}"
