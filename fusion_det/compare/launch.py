"""Starting a job somewhere and hearing how it ended: processes of this machine here, other places behind the same interface."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_PR_SET_PDEATHSIG = 1
KILL_AFTER = 60.0
"""Seconds that a job gets to save itself after it was asked to stop."""


@dataclass(frozen=True)
class Command:
    """What to run."""

    words: tuple[str, ...]
    log: Path
    """File that its output is appended to."""
    environment: Mapping[str, str]
    """Variables on top of this process's own."""


class Handle(Protocol):
    """A started job."""

    def poll(self) -> int | None:
        """The exit code (128 + signal for a killed process), or ``None`` while it runs."""

    def stop(self, number: int) -> None:
        """Ask it to save and end, by signal ``number`` where that is possible."""

    def kill(self) -> None:
        """End it at once."""


class Launcher(Protocol):
    """A place where jobs run."""

    def start(self, command: Command, name: str) -> Handle:
        """Start ``command``; ``name`` is for lists of jobs."""


class LocalLauncher:
    """Child processes. They die with this process, even if it is killed (Linux), but with time to save."""

    def start(self, command: Command, name: str) -> Handle:
        """Start ``command`` in a process group of its own, so that Ctrl-C reaches the runner alone, which passes it on."""
        command.log.parent.mkdir(parents=True, exist_ok=True)
        with command.log.open("ab") as log:
            process = subprocess.Popen(
                command.words,
                env={**os.environ, **command.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()),
            )
        return LocalHandle(process)


class LocalHandle:
    """A child process and its process group."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def poll(self) -> int | None:
        """See :class:`Handle`."""
        code = self.process.poll()
        return 128 - code if code is not None and code < 0 else code

    def stop(self, number: int) -> None:
        """See :class:`Handle`; only the process itself is asked, its loader workers end with it."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """See :class:`Handle`; takes the whole group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def stop_all(handles: Sequence[Handle], number: int, *, kill_after: float = KILL_AFTER, hurry: Callable[[], bool] = lambda: False) -> None:
    """Ask all to end, wait until they have, and kill those that take longer than ``kill_after`` seconds, or all once ``hurry()``."""
    for handle in handles:
        handle.stop(number)
    deadline = time.monotonic() + kill_after
    while any(handle.poll() is None for handle in handles):
        if time.monotonic() > deadline or hurry():
            for handle in handles:
                if handle.poll() is None:
                    handle.kill()
            return
        time.sleep(0.05)


def tool_command(tool: str, flags: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """The command line of one of our tools."""
    return (sys.executable, "-m", "fusion_det.config.cli", tool, *flags, *words)


def tool_environment() -> dict[str, str]:
    """The variables with which a child finds this very package, installed or not."""
    parent = str(Path(__file__).resolve().parents[2])
    return {"PYTHONPATH": os.pathsep.join(part for part in (parent, os.environ.get("PYTHONPATH")) if part)}


def _die_with_parent(parent: int) -> Callable[[], None] | None:
    """What a child does before it becomes its program: asks the kernel for SIGTERM on the death of ``parent``."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        prctl = ctypes.CDLL(None).prctl  # looked up here: nothing may be imported or allocated between fork and exec
    except (OSError, AttributeError):
        return None

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            os._exit(143)

    return ask
