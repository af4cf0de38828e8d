"""Where a key of a composed config was written: the YAML file and line, if it did not come from the command line."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import yaml

from fusion_det.config.compose import Composition
from fusion_det.config.overrides import split
from fusion_det.config.placed import placements


def locate(key: str, tool: str, composition: Composition) -> str | None:
    """``configs/neck/mine.yaml:4`` for the dotted ``key``; ``None`` if it was typed, or is in no file."""
    placed = placements(composition.choices)
    if any(_covers(split(text).key, key, placed) for text in composition.overrides):
        return None
    group, _, inner = key.partition(".")
    names = [("local/default", key), (f"experiment/{composition.choices.get('experiment')}", key)]
    names += [(f"{group}/{composition.choices.get(group)}", name) for name in (key, inner)]
    inside = [place for place in placed if key.startswith(f"{place}.")]
    names += [(f"{placed[place]}/{composition.choices[f'{placed[place]}@{place}']}", key[len(place) + 1 :]) for place in inside]
    for name, path in [*names, (tool, key)]:
        for folder in composition.folders:
            line = _find_line(folder / f"{name}.yaml", path.split("."))
            if line is not None:
                return f"{_short(folder / name)}.yaml:{line}"
    return None


def _covers(typed: str, key: str, groups: Collection[str]) -> bool:
    """Whether the override of ``typed`` gave ``key`` or a part of it (and did not just choose the option that holds it)."""
    return typed == key or typed.startswith(f"{key}.") or (key.startswith(f"{typed}.") and "." in typed and typed not in groups)


def _find_line(file: Path, parts: Sequence[str]) -> int | None:
    try:
        node = yaml.compose(file.read_text(), Loader=yaml.SafeLoader)
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return None
    line = None
    for part in parts:
        if not isinstance(node, yaml.MappingNode):
            return None
        entry = next(((k, v) for k, v in node.value if getattr(k, "value", None) == part), None)
        if entry is None:
            return None
        line, node = entry[0].start_mark.line + 1, entry[1]
    return line


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
