"""What a run ran on, for ``environment.json``: versions, machine, command line and commit, without secrets."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import fusion_det

PACKAGES = (
    "torch", "torchvision", "timm", "hydra-core", "omegaconf", "pydantic", "pycocotools", "numpy", "pillow", "tensorboard",
)  # fmt: skip
_SECRET = re.compile(r"(?i)([\w.-]*(?:token|secret|passw(?:or)?d|api_?key|credential)[\w.-]*\s*[=:]\s*)\S+")
_URL_LOGIN = re.compile(r"(\w+://)[^/\s@]+@")


def describe_environment(seed: int) -> dict[str, Any]:
    """Plain containers for ``environment.json``; imports none of the packages it lists."""
    return {
        "fusion_det": fusion_det.__version__,
        "commit": git_commit(Path(fusion_det.__file__).resolve().parents[1]),
        "seed": seed,
        "command": [scrub(word) for word in sys.argv],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def scrub(text: str) -> str:
    """``text`` without logins in URLs, values of keys that sound secret, and the name of the home folder."""
    text = scrub_secrets(text)
    home = str(Path.home())
    return re.sub(rf"{re.escape(home)}(?=/|$)", "~", text) if len(home) > 1 else text


def scrub_secrets(text: str) -> str:
    """``text`` without logins in URLs and values of keys that sound secret."""
    return _URL_LOGIN.sub(r"\1***@", _SECRET.sub(r"\1***", text))


def git_commit(folder: Path) -> str | None:
    """The checked-out commit of the repository at ``folder``, read from its files; ``None`` if it is none."""
    try:
        git = folder / ".git"
        if git.is_file():  # a worktree: "gitdir: /elsewhere"
            git = folder / git.read_text().removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return _commit(head)
        name = head.removeprefix("ref:").strip()
        shared = git / "commondir"
        roots = [git, git / shared.read_text().strip()] if shared.is_file() else [git]
        return next((found for root in roots if (found := _find_ref(root, name))), None)
    except (OSError, UnicodeDecodeError):
        return None


def _find_ref(git: Path, name: str) -> str | None:
    if (git / name).is_file():
        return _commit((git / name).read_text().strip())
    packed = git / "packed-refs"
    lines = packed.read_text().splitlines() if packed.is_file() else []
    return next((_commit(line.split()[0]) for line in lines if line.endswith(f" {name}")), None)


def _commit(text: str) -> str | None:
    return text if re.fullmatch(r"[0-9a-f]{40,64}", text) else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
