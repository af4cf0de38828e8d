"""One live process per folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
import uuid
from pathlib import Path

from fusion_det.errors import ConfigError

LOCK_NAME = ".lock"
_PROCESS = uuid.uuid4().hex
"""Tells this process from an earlier one with the same id (containers hand out the same few ids again and again)."""


class FolderLock:
    """Holds ``<folder>/.lock`` until :meth:`release` or the end of the process; ``ConfigError`` if another live process holds it.

    The lock is the operating system's (POSIX record lock): it falls with its process however that ends, is not inherited by loader
    processes, and so can never be stale. The id and host in the file serve the message. The file itself stays, since removing it
    would let two processes lock two different files of the same name.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_NAME
        self._handle: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder = _read(self._handle)
            free = not _is_this_process(holder)  # record locks do not exclude their own process
        except OSError as error:
            holder = _read(self._handle)
            # A file system without locks: fall back on asking whether the process in the file still lives.
            free = error.errno not in (errno.EACCES, errno.EAGAIN) and not _lives(holder)
        if not free:
            # Closing a handle would drop this process's own record lock on the file, so it is left open if that is the case.
            if not _is_this_process(holder):
                os.close(self._handle)
            self._handle = None
            raise self._in_use(holder)
        self._write({"pid": os.getpid(), "host": socket.gethostname(), "started": _now(), "process": _PROCESS})

    def release(self) -> None:
        """Let others in; a second call does nothing."""
        if self._handle is not None:
            os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = None

    def _write(self, content: dict[str, object]) -> None:
        assert self._handle is not None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, json.dumps(content).encode(), 0)

    def _in_use(self, holder: dict[str, object]) -> ConfigError:
        who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')} since {holder.get('started', '?')}"
        return ConfigError(f"already in use by {who}", where=str(self.path.parent), mend="wait for it, stop it, or choose another run_dir")


def _read(handle: int) -> dict[str, object]:
    try:
        content = json.loads(os.pread(handle, 4096, 0))
    except (ValueError, OSError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_this_process(holder: dict[str, object]) -> bool:
    """The id counts too: a forked process has the mark of its parent."""
    return holder.get("process") == _PROCESS and holder.get("pid") == os.getpid()


def _lives(holder: dict[str, object]) -> bool:
    """Whether the process that wrote ``holder`` may still run; one of another host is taken to."""
    pid = holder.get("pid")
    if not isinstance(pid, int):
        return False
    return holder.get("host") != socket.gethostname() or Path(f"/proc/{pid}").exists() or _signal_reaches(pid)


def _signal_reaches(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
