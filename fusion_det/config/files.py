"""Writing files so that at every instant either the old or the new one is there in full."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path``: temporary file in the same folder, fsync, rename, fsync of the folder.

    Raises ``OSError`` as the system gives it; the old file and no temporary one is left then.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # O_EXCL and O_NOFOLLOW: a link planted under the temporary name is refused, not written through.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` survive a power cut; silently nothing where the file system cannot do it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:  # some network file systems refuse fsync on folders
        pass
    finally:
        os.close(handle)


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically; NaN and infinity are a ``ValueError``, as no JSON reader agrees on them."""
    write_atomic(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_yaml(path: str | Path, content: Any) -> None:
    """Write plain containers as YAML in their own key order, atomically."""
    write_atomic(path, to_yaml(content).encode())


def to_yaml(content: Any) -> str:
    """Plain containers as YAML text, in their own key order."""
    import yaml

    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=140)
