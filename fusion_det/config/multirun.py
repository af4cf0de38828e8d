"""``-m``: every combination of the swept values, one run after another, each in a process of its own.

A process per run, because memory, CUDA state and crashes must not leak from one run into the next. All combinations are checked
before the first one starts; a failing run does not stop the others.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from types import FrameType

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override as HydraOverride
from hydra.errors import HydraException

from fusion_det.config.compose import session, unreadable
from fusion_det.config.overrides import normalise, quote, split, take_search_path
from fusion_det.config.tools import Tool, list_groups
from fusion_det.errors import ConfigError


def expand(tool: Tool, overrides: Sequence[str], config_dir: Path, config_dirs: Sequence[str] = ()) -> list[list[str]]:
    """The overrides of each job, in the order of the command line with the last sweep running fastest."""
    rest, entries = take_search_path(overrides, config_dirs)
    folders = (config_dir, *(Path(entry.removeprefix("file://")) for entry in entries if entry.startswith("file://")))
    choices: dict[str, list[str]] = {}
    with session(config_dir):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        groups = list_groups(folders)
        for text in normalise(rest, groups, tool.open_nodes, multirun=True):
            try:
                (parsed,) = parser.parse_overrides([_glob_of_group(text, groups)])  # this form also hands on the config loader, for glob()
                if parsed.is_sweep_override() and not parsed.is_discrete_sweep():
                    raise ConfigError("interval() has no list of values", where=text, mend="use key=a,b,c or range(a,b)")
                key = split(text)._replace(value=None).text
                choices[key] = _values(key, parsed, parser) if parsed.is_sweep_override() else [text]
            except HydraException as error:
                raise unreadable(text, error) from error
    fixed = [text for text in overrides if text not in rest]
    return [[*fixed, *job] for job in itertools.product(*choices.values())]


def _glob_of_group(text: str, groups: Collection[str]) -> str:
    """``backbone.fusion=glob(*)`` looks for the options of ``fusion``."""
    override = split(text)
    group = override.key.rpartition(".")[2]
    is_glob = group in groups and (override.value or "").startswith("glob(")
    return f"{group}={override.value}" if is_glob else text


def _values(key: str, sweep: HydraOverride, parser: OverridesParser) -> list[str]:
    """One override per value of ``sweep``."""
    values = [f"{key}={_unescaped(value, parser)}" for value in sweep.sweep_string_iterator()]
    if not values:
        raise ConfigError(f"{sweep.input_line} stands for no value", where=key, mend="glob() is for groups; --help lists their options")
    return values


def _unescaped(value: str, parser: OverridesParser) -> str:
    """One swept value as its job's command line takes it: quotes in place of Hydra's backslashes, which a path could not tell apart."""
    if "\\" not in value:
        return value
    meant = parser.parse_override(f"key={value}").value()
    return quote(meant) if isinstance(meant, str) else value


def run_jobs(command: Sequence[str], jobs: Sequence[Sequence[str]]) -> int:
    """Run ``command + job`` for each job; the first exit code that is not 0, or 0. Ctrl-C and SIGTERM end the run and the sweep."""
    codes = []
    for number, job in enumerate(jobs, 1):
        sys.stderr.write(f"[{number}/{len(jobs)}] {' '.join(job)}\n")
        codes.append(_run([*command, *job]))
        sys.stderr.write(f"[{number}/{len(jobs)}] exit code {codes[-1]}\n")
        if codes[-1] in (130, 143):
            return codes[-1]
    return next((code for code in codes if code), 0)


def _run(command: Sequence[str]) -> int:
    package_parent = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (package_parent, os.environ.get("PYTHONPATH")) if part)
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})

    def forward(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    # The terminal sends Ctrl-C to the child itself; it writes its checkpoint and we wait for it. SIGTERM reaches only us.
    previous = [
        (number, signal.signal(number, handler)) for number, handler in ((signal.SIGINT, lambda *_: None), (signal.SIGTERM, forward))
    ]
    try:
        code = process.wait()
    finally:
        for number, handler in previous:
            signal.signal(number, handler)
    return 128 - code if code < 0 else code
