"""A file that is written beside its target, hashed on the way, and takes the target's place only when it is whole.

Every call to the operating system goes through ``os``, so that a test can let the process die at each of them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import struct
from pathlib import Path
from typing import Any

DIGEST_PREFIX = b"sha256:"
TRAILER_SIZE = len(DIGEST_PREFIX) + 64
_BUFFER_SIZE = 1 << 20
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES, errno.EINVAL}


class StagedZip:
    """Takes the bytes of a ZIP archive and puts their SHA-256 into the archive comment, which every ZIP reader skips.

    The last two bytes of an archive are the length of its comment. They are held back until :meth:`seal`, so that the digest covers
    every byte before itself, that length included.
    """

    def __init__(self, target: Path) -> None:
        self.path = temporary_name(target)
        flags = (
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        )
        self._descriptor: int | None = os.open(self.path, flags, 0o666)
        self._hash = hashlib.sha256()
        self._held = bytearray()
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        """Called by ``torch.save`` from C++, which must not see an exception: an ``OSError`` waits until :meth:`seal`."""
        view = memoryview(data).cast("B")
        if self._error is None:
            try:
                if len(view) > _BUFFER_SIZE:
                    self._emit(self._held)
                    self._emit(view[:-2])
                    self._held = bytearray(view[-2:])
                else:
                    self._held += view
                    if len(self._held) > _BUFFER_SIZE:
                        self._emit(self._held[:-2])
                        self._held = self._held[-2:]
            except OSError as error:
                self._error = error
        return len(view)

    def flush(self) -> None:
        """Part of the interface that ``torch.save`` expects; :meth:`seal` does the work."""

    def seal(self) -> None:
        """Write what is held back and the digest, and bring the file to the disk."""
        if self._error is not None:
            raise self._error
        if self._held[-2:] != b"\0\0":
            raise RuntimeError("expected an archive without a comment, so that the digest can become its comment")
        self._held[-2:] = struct.pack("<H", TRAILER_SIZE)
        self._emit(self._held)
        assert self._descriptor is not None
        _write_all(self._descriptor, DIGEST_PREFIX + self._hash.hexdigest().encode())
        os.fsync(self._descriptor)
        self.close()

    def close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _emit(self, data: bytearray | memoryview) -> None:
        assert self._descriptor is not None
        self._hash.update(data)
        _write_all(self._descriptor, data)


def temporary_name(target: Path) -> Path:
    """A name in the folder of ``target`` that nobody else uses and that tells whose it is."""
    return target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def remove_leftovers(targets: list[Path]) -> None:
    """Delete temporary files of ``targets`` whose writer is gone; our own process id counts as gone, since we write nothing now."""
    names = {target.name for target in targets}
    for entry in list(targets[0].parent.iterdir()):
        match = re.fullmatch(r"\.(.+)\.(\d+)\.[0-9a-f]{8}\.tmp", entry.name)
        if match and match[1] in names and not _is_other_process(int(match[2])):
            with contextlib.suppress(OSError):
                entry.unlink()


def second_name(existing: Path, target: Path) -> Path:
    """A temporary file for ``target`` with the content of ``existing``: a hard link, or a copy where the file system has no links."""
    name = temporary_name(target)
    try:
        os.link(existing, name)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(existing, name)
        descriptor = os.open(name, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return name


def _write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    view = memoryview(data)
    while len(view):
        view = view[os.write(descriptor, view) :]


def _is_other_process(process_id: int) -> bool:
    if process_id == os.getpid() or os.name != "posix":
        return False
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
