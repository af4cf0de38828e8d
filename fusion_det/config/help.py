"""The ``--help`` text. Read from the folders and YAML comments by plain text search: importing a YAML parser would double the time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import fusion_det
from fusion_det.config.placed import INNER
from fusion_det.config.tools import TOOLS, Tool, list_groups

WIDTH = 118
EXIT_CODES = (
    "0 done; 1 run-time failure; 2 usage or config; 3 data or checkpoint; 4 expectation not met; 130 Ctrl-C; 143 SIGTERM",
    "(after 130 and 143 the run goes on with resume=auto)",
)
FLAGS = (
    ("-h, --help", "this text"),
    ("--version", "version of fusion_det"),
    ("--cfg job", "print the composed config and stop"),
    (
        "--dry-run[=FILE]",
        "train: try all parts without data, print the neck's plan and levels, draw it into FILE (SVG); compare: plan and forecast",
    ),
    ("-m, --multirun", "run every combination of key=a,b,c (also range(), glob()), one after another, each in its own process"),
    ("--config-dir DIR", "a folder of further options, e.g. DIR/neck/mine.yaml; the same as hydra.searchpath=[file://DIR]"),
    ("--config-path DIR", "a folder in place of our configs"),
    ("--plugins A,B", "packages of yours that a _target_ may name"),
)
VARIABLES = (
    ("FUSION_DET_PLUGINS", "the same as --plugins"),
    ("TORCH_HOME, HF_HOME, HF_HUB_OFFLINE", "where pretrained weights are cached, and whether the network may be asked"),
    ("CUDA_VISIBLE_DEVICES, OMP_NUM_THREADS", "devices and CPU threads"),
    ("RANK, WORLD_SIZE, LOCAL_RANK", "set by torchrun: torchrun --nproc-per-node=8 tools/train.py ..."),
)
_KEY = re.compile(r"(\w+): *([^#\n]*?) *(?:# *(.*))?")
_DEFAULT = re.compile(r"  - (?:optional )?(\w+): *([^#\s]+) *(?:# *(.*))?")
_PLACED = re.compile(r"^  - /(\w+)@(\w[\w.]*): *([^#\s]+)", re.MULTILINE)


def help_text(tool: Tool, command: str, folders: tuple[Path, ...]) -> str:
    """Purpose, examples, groups with their options (defaults in brackets), main keys, flags, exit codes, variables, documentation."""
    primary = _read(folders[0] / f"{tool.name}.yaml")
    lines = [f"{command}: {tool.purpose}", "", f"usage: {command} [FLAGS] [GROUP=OPTION ...] [KEY=VALUE ...]", "", "examples:"]
    for arguments, meaning in tool.examples:
        lines += _entry(f"{command} {arguments}".strip(), meaning, indent=4, column=66)
    lines += _groups(primary, folders)
    lines += ["", "keys (KEY=VALUE; the value shown is the default):"]
    for key, value, comment in _keys(primary, folders[0]):
        lines += _entry(f"{key}={value}", comment, column=32)
    lines += ["", "flags:"]
    lines += [line for flag, meaning in FLAGS for line in _entry(flag, meaning, column=20)]
    lines += ["", "exit codes:", *(f"  {line}" for line in EXIT_CODES), "", "environment variables:"]
    lines += [line for name, meaning in VARIABLES for line in _entry(name, meaning, column=42)]
    lines += [
        "",
        "every key with its comment: the YAML files in",
        f"  {folders[0]}",
        "documentation: README.md and CONTRIBUTING.md of fusion_det",
        "",
    ]
    return "\n".join(lines)


def overview() -> str:
    """The help of ``fusion-det`` without a tool."""
    lines = [f"fusion-det {fusion_det.__version__}: train object detectors and find out which feature fusion is better", ""]
    lines += ["usage: fusion-det TOOL [FLAGS] [GROUP=OPTION ...] [KEY=VALUE ...]", "", "tools:"]
    lines += [line for tool in TOOLS.values() for line in _entry(tool.name, tool.purpose, column=14)]
    return "\n".join([*lines, "", "fusion-det TOOL --help tells the rest; --version prints the version", ""])


def _groups(primary: str, folders: tuple[Path, ...]) -> list[str]:
    options = list_groups(folders)
    lines: list[str] = []
    for name, chosen, comment in (match.groups(default="") for match in map(_DEFAULT.fullmatch, primary.splitlines()) if match):
        if name == "local":
            continue
        words = [f"[{option}]" if option == chosen else option for option in options.get(name, [])]
        lines += _entry(name, " ".join(words) or "(no options)", column=14)
        lines += _entry("", f"({comment})", column=14) if comment else []
        lines += [line for part in options.get(name, []) for line in _groups_inside(name, part, folders)]
    for name in INNER:
        if any(f"=OPTION too: those of {name}," in line for line in lines):
            lines += _entry(name, " ".join(options.get(name, [])), column=14)
            lines += [line for part in options.get(name, []) for line in _groups_inside(name, part, folders)]
    return ["", "groups (GROUP=OPTION; the default in brackets):", *lines] if lines else []


def _groups_inside(group: str, option: str, folders: tuple[Path, ...]) -> list[str]:
    """A remark on each group that this option has inside it."""
    texts = (_read(folder / group / f"{option}.yaml") for folder in folders)
    found = {match.groups() for text in texts for match in _PLACED.finditer(text)}
    words = [
        f"({group}={option} takes {group}.{key}=OPTION too: those of {inner}, {chosen} by itself)" for inner, key, chosen in sorted(found)
    ]
    return [line for text in words for line in _entry("", text, column=14)]


def _keys(primary: str, folder: Path) -> Iterator[tuple[str, str, str]]:
    """(dotted key, default, comment) of the primary config and of the groups that every run has, as written in the YAML."""
    for prefix, text in (("", primary), *((f"{group}.", _read(folder / group / "default.yaml")) for group in _settings_groups(primary))):
        for match in map(_KEY.fullmatch, text.splitlines()):
            if match and match[1] != "defaults":
                yield prefix + match[1], match[2], match[3] or ""


def _settings_groups(primary: str) -> list[str]:
    return [name for name in ("trainer", "loader", "eval", "logger") if f"  - {name}: " in primary]


def _entry(head: str, text: str, *, column: int, indent: int = 2) -> list[str]:
    """``head``, then ``text`` wrapped at ``column``."""
    lines, line = [], " " * indent + head
    line = line.ljust(column) if len(line) < column else line + "  "
    for word in text.split():
        if len(line) + len(word) > WIDTH and line.strip():
            lines.append(line.rstrip())
            line = " " * column
        line += word + " "
    return [*lines, line.rstrip()]


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""
