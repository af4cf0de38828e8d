"""From the file names in an annotation file to pictures on disk: nothing outside the image folder is ever opened."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from fusion_det.data.ledger import Findings, printable

NAME_LIMIT = 1024


def unsafe(name: object) -> str:
    """Why ``name`` may not be used as a path inside the image folder; empty if it may."""
    if not isinstance(name, str):
        return "file_name is missing" if name is None else f"file_name is a {type(name).__name__}"
    parts = name.split("/")
    checks = {
        "file_name is empty": not name.strip(" ./"),
        "file_name is too long": len(name) > NAME_LIMIT,
        "file_name holds a NUL character": "\0" in name,
        "file_name is a URL": "://" in name,
        "file_name is an absolute path": name.startswith("/") or name[1:3] in (":/", ":\\"),
        "file_name holds a backslash": "\\" in name,
        "file_name leaves the image folder (..)": ".." in parts,
    }
    return next((reason for reason, found in checks.items() if found), "")


def check_names(names: Sequence[object], found: Findings) -> None:
    """Gather a fault for every kind of unsafe file name."""
    reasons: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        reason = unsafe(name)
        if reason:
            reasons.setdefault(reason, []).append(row)
    mend = "file_name must be a path relative to the image folder, with forward slashes"
    for reason, rows in reasons.items():
        found.fault(reason, rows, lambda row: f"images[{row}] {printable(names[row], 60)}", mend)


def _loose(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip().casefold()


def _listing(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_file()]
    except OSError:
        return []


def locate(image_dir: Path, names: Sequence[str], found: Findings) -> list[str]:
    """``names`` as they are spelt on disk, relative to ``image_dir``.

    Each folder is listed once. A name that differs only in case, Unicode form or outer blanks is accepted if just one file
    fits, and counted; all files that are not there (or are not regular files) are gathered in one fault.
    """
    if not image_dir.is_dir():
        found.refuse(f"the image folder {image_dir} does not exist", "check data.root, or name the image folder")
        return list(names)
    exact: dict[str, set[str]] = {}
    loose: dict[str, dict[str, list[str]]] = {}
    spelt, respelt, missing = list(names), [], []
    for row, name in enumerate(names):
        folder, _, base = name.rpartition("/")
        if folder not in exact:
            exact[folder] = set(_listing(image_dir / folder))
        if base in exact[folder]:
            continue
        if folder not in loose:
            loose[folder] = {}
            for there in exact[folder]:
                loose[folder].setdefault(_loose(there), []).append(there)
        fitting = loose[folder].get(_loose(base), [])
        if len(fitting) == 1:
            spelt[row] = f"{folder}/{fitting[0]}" if folder else fitting[0]
            respelt.append(row)
        else:
            missing.append(row)
    found.note("file names spelt differently on disk", respelt, lambda row: names[row])
    if missing:
        found.fault(f"image files not found in {image_dir}", missing, lambda row: names[row], _did_you_mean(image_dir, names[missing[0]]))
    return spelt


def _did_you_mean(image_dir: Path, name: str) -> str:
    """Where a missing picture may be: beside the image folder or in a folder of it."""
    base = PurePosixPath(name).name
    try:
        folders = [image_dir.parent, *(path for parent in (image_dir, image_dir.parent) for path in sorted(parent.iterdir())[:200])]
        for folder in folders:
            for candidate in (name, base):
                if folder != image_dir and folder.is_dir() and (folder / candidate).is_file():
                    at = folder if candidate == name else f"{folder} (without the folder in file_name)"
                    return f"{printable(candidate, 60)} is in {at}: name that image folder"
    except OSError:
        pass
    return "copy the pictures there, or name the right image folder"
