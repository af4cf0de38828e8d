"""Arms that need no training: finished run folders, or predictions files of any framework."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from fusion_det.compare.run_record import RunRecord, read_run
from fusion_det.errors import ConfigError, DataError, FusionDetError, raise_all

_FORM = "write NAME=PATH,PATH; NAME=PATH,PATH"


def parse_lists(text: str, key: str) -> dict[str, list[Path]]:
    """``'A=a0,a1; B=b0,b1'`` as paths per name; quotes keep odd letters together, ``*`` stands for all that fits, sorted.

    Raises ``ConfigError`` for names that are missing, occur twice or cannot be printed, and lists without a path.
    """
    lists: dict[str, list[Path]] = {}
    for part in _split(text, ";", key):
        name, equals, rest = part.partition("=")
        name = _unquoted(name.strip())
        if not equals or not name:
            raise ConfigError(f"cannot be read: {part!a}", where=key, mend=_FORM)
        if not name.isprintable() or len(name) > 60:
            raise ConfigError(f"{name!a} cannot be a name", where=key, mend="use at most 60 printable letters")
        if name in lists:
            raise ConfigError(f"{name!a} occurs twice", where=key, mend="put all paths of an arm into one list")
        paths = [path for word in _split(rest, ",", key) for path in _expand(_unquoted(word), folders=key == "runs")]
        if not paths:
            raise ConfigError(f"{name!a} has no paths", where=key, mend=_FORM)
        lists[name] = paths
    if len(lists) < 2:
        raise ConfigError(f"{len(lists)} given, a comparison needs two", where=key, mend=_FORM)
    return lists


def read_given_runs(text: str) -> list[RunRecord]:
    """The finished runs of ``runs=``; every folder that cannot be used is told, and then none is."""
    records: list[RunRecord] = []
    faults: list[FusionDetError] = []
    for arm, folders in parse_lists(text, "runs").items():
        for folder in folders:
            try:
                records.append(read_run(folder, arm))
            except DataError as error:
                faults.append(error)
    raise_all([*faults, *_twice(records)])
    return records


def read_given_files(text: str) -> list[RunRecord]:
    """The files of ``predictions=``; the first of each arm is paired with the first of the others, and so on."""
    records, faults = [], []
    for arm, paths in parse_lists(text, "predictions").items():
        for number, path in enumerate(paths):
            records.append(RunRecord(arm, number, path))
            if not path.is_file():
                what = "is a folder" if path.is_dir() else "no such file"
                faults.append(DataError(what, where=str(path), mend="name a COCO results file"))
    raise_all(faults)
    raise_all(_twice(records))
    return records


def _twice(records: Sequence[RunRecord]) -> list[DataError]:
    """One run must not be counted as two: not by its folder, not by a seed that an arm has already."""
    faults = []
    seen: dict[Path, RunRecord] = {}
    seeds: dict[tuple[str, int], RunRecord] = {}
    for run in records:
        place = (run.folder or run.predictions).resolve()
        if place in seen:
            what = f"is given twice, for {seen[place].arm!a} and {run.arm!a}"
            faults.append(DataError(what, where=str(run.folder or run.predictions), mend="one run would count as two: leave one out"))
        elif (run.arm, run.seed) in seeds:
            other = seeds[run.arm, run.seed]
            what = f"has the seed {run.seed}, as {other.folder} of the same arm"
            faults.append(DataError(what, where=str(run.folder), mend="leave one of them out"))
        seen.setdefault(place, run)
        seeds.setdefault((run.arm, run.seed), run)
    return faults


def _split(text: str, separator: str, key: str) -> list[str]:
    """The parts of ``text`` between separators that are not inside quotes; empty ones are left out, quotes stay."""
    parts, quote = [""], ""
    for letter in text:
        if not quote and letter == separator:
            parts.append("")
            continue
        if letter in "'\"" and quote in ("", letter):
            quote = "" if quote else letter
        parts[-1] += letter
    if quote:
        raise ConfigError(f"cannot be read: no closing {quote}", where=key, mend="close the quotes")
    return [part.strip() for part in parts if part.strip()]


def _unquoted(word: str) -> str:
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "'\"" else word


def _expand(word: str, *, folders: bool) -> list[Path]:
    """The path, or all that a pattern fits: folders, or files."""
    path = Path(word).expanduser()
    if path.exists() or not glob.has_magic(word):
        return [path]
    found = sorted(Path(name) for name in glob.glob(str(path)))  # noqa: PTH207 (the pattern may be absolute)
    return [entry for entry in found if entry.is_dir() == folders] or [path]
