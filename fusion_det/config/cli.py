"""The command line of every tool: flags, then compose, check, and only then the import of what does the work."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fusion_det
from fusion_det.config.tools import Tool, default_config_dir, get_tool
from fusion_det.errors import ConfigError, FusionDetError

_SWITCHES = {"-h": "help", "--help": "help", "--version": "version", "-m": "multirun", "--multirun": "multirun"}
_WITH_VALUE = {
    "-c": "cfg", "--cfg": "cfg", "-cd": "config_dir", "--config-dir": "config_dir",
    "-cp": "config_path", "--config-path": "config_path", "--plugins": "plugins",
}  # fmt: skip
_DRY_RUN = "--dry-run"


class Folders(NamedTuple):
    """Where the configs lie, for tools that load those of other tools."""

    config_dir: Path
    config_dirs: tuple[str, ...]

    @property
    def flags(self) -> list[str]:
        """The command line of a child process that uses the same ones."""
        return ["--config-path", str(self.config_dir), *(word for folder in self.config_dirs for word in ("--config-dir", folder))]


class Arguments(NamedTuple):
    """A parsed command line."""

    overrides: list[str]
    switches: set[str]
    cfg: str | None
    config_dir: Path
    config_dirs: tuple[str, ...]
    plugins: str | None
    picture: str | None = None
    """File that ``--dry-run=FILE`` names."""

    @property
    def folders(self) -> Folders:
        """Where the configs lie."""
        return Folders(self.config_dir, self.config_dirs)


def main(tool: str, argv: Sequence[str] | None = None) -> int:
    """Run ``tool`` with ``argv`` (default: the process's own arguments) and return its exit code.

    Errors a user can cause become lines on stderr; anything else keeps its traceback.
    """
    try:
        return _main(get_tool(tool), sys.argv[1:] if argv is None else argv)
    except FusionDetError as error:
        rank = os.environ.get("RANK", "0")
        prefix = "error: " if rank == "0" else f"error: rank {rank}: "
        sys.stderr.write("".join(f"{prefix}{line}\n" for line in error.lines))
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def console() -> int:
    """``fusion-det TOOL ...``."""
    tool, *rest = sys.argv[1:] or ["--help"]
    if tool in ("-h", "--help"):
        from fusion_det.config.help import overview

        sys.stdout.write(overview())
        return 0
    if tool == "--version":
        return _print_version()
    return main(tool, rest)


def _main(tool: Tool, argv: Sequence[str]) -> int:
    arguments = _parse(argv)
    if arguments.plugins is not None:
        os.environ["FUSION_DET_PLUGINS"] = arguments.plugins  # the environment reaches jobs and loader processes too
    if "help" in arguments.switches:
        return _print_help(tool, arguments)
    if "version" in arguments.switches:
        return _print_version()
    if arguments.cfg is not None:
        return _print_config(tool, arguments)
    if "dry_run" in arguments.switches:
        return _dry_run(tool, arguments)
    if "multirun" in arguments.switches:
        return _multirun(tool, arguments)
    settings = load_settings(tool, arguments.overrides, arguments.config_dir, arguments.config_dirs)
    _start_logging()
    module, _, function = tool.run.partition(":")
    run = getattr(importlib.import_module(module), function)
    if tool.passes_to:
        code = run(settings, arguments.folders)
    else:
        code = run(settings, arguments.overrides) if tool.takes_overrides else run(settings)
    return code if isinstance(code, int) else 0


def _start_logging() -> None:
    """Our own messages go to stdout as plain lines; of other libraries only warnings."""
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("fusion_det").setLevel(logging.INFO)


def load_settings(tool: Tool, overrides: Sequence[str], config_dir: Path, config_dirs: Sequence[str] = ()) -> Any:
    """Compose and check: the settings object of ``tool``, or every mistake at once."""
    from fusion_det.config.check import check_config
    from fusion_det.config.compose import compose
    from fusion_det.config.origin import locate

    composed = compose(tool.name, overrides, config_dir, config_dirs)
    return check_config(
        composed.config,
        tool.name,
        composed.folders,
        unknown=composed.unknown,
        faults=composed.faults,
        locate=lambda key: locate(key, tool.name, composed),
    )


def _parse(argv: Sequence[str]) -> Arguments:
    overrides: list[str] = []
    switches: set[str] = set()
    values: dict[str, list[str]] = {name: [] for name in _WITH_VALUE.values()}
    picture, rest = None, iter(argv)
    for word in rest:
        flag, equals, value = word.partition("=")
        if word in _SWITCHES:
            switches.add(_SWITCHES[word])
        elif flag == _DRY_RUN:
            switches.add("dry_run")
            picture = value or None
        elif flag in _WITH_VALUE:
            given = value if equals else next(rest, None)
            if given is None:
                raise ConfigError("a value must follow", where=word, mend="see --help")
            values[_WITH_VALUE[flag]].append(given)
        elif word.startswith("-"):
            raise _unknown_flag(word)
        else:
            overrides.append(word)
    path = values["config_path"]
    config_dir = Path(path[-1]).absolute() if path else default_config_dir()
    if not config_dir.is_dir():
        raise ConfigError("no such folder", where=str(config_dir), mend="give --config-path an existing folder")
    plugins = ",".join(values["plugins"]) if values["plugins"] else None
    cfg = values["cfg"][-1] if values["cfg"] else None
    return Arguments(overrides, switches, cfg, config_dir, tuple(values["config_dir"]), plugins, picture)


def _unknown_flag(word: str) -> ConfigError:
    from fusion_det.config.suggest import nearest

    close = nearest(word.partition("=")[0], [*_SWITCHES, *_WITH_VALUE, _DRY_RUN])
    return ConfigError("no such flag", where=word, mend=f"did you mean {close}?" if close else "see --help; values are given as key=value")


def _print_help(tool: Tool, arguments: Arguments) -> int:
    from fusion_det.config.help import help_text

    name = Path(sys.argv[0]).name
    command = f"python tools/{name}" if name == f"{tool.name}.py" else f"fusion-det {tool.name}"
    folders = [arguments.config_dir, *(Path(folder.removeprefix("file://")) for folder in arguments.config_dirs)]
    sys.stdout.write(help_text(tool, command, tuple(folder for folder in folders if folder.is_dir())))
    return 0


def _print_version() -> int:
    sys.stdout.write(f"fusion-det {fusion_det.__version__}\n")
    return 0


def _print_config(tool: Tool, arguments: Arguments) -> int:
    from fusion_det.config.compose import compose
    from fusion_det.config.files import to_yaml
    from fusion_det.errors import raise_all

    if arguments.cfg != "job":
        raise ConfigError(f"got {arguments.cfg!r}, expected job", where="--cfg", mend="write --cfg job")
    composed = compose(tool.name, arguments.overrides, arguments.config_dir, arguments.config_dirs)
    sys.stdout.write(to_yaml(composed.config))
    if composed.unknown or composed.faults:
        load_settings(tool, arguments.overrides, arguments.config_dir, arguments.config_dirs)
    raise_all(composed.faults)
    return 0


def _dry_run(tool: Tool, arguments: Arguments) -> int:
    """Try everything that needs neither data nor weights, tell what would be trained, and stop."""
    if not tool.dry_run:
        raise ConfigError(f"{tool.name} has nothing to rehearse", where=_DRY_RUN, mend="tools/train.py and tools/compare.py have this flag")
    if "multirun" in arguments.switches:
        raise ConfigError("shows one run, not the combinations of -m", where=_DRY_RUN, mend="leave one of the two flags out")
    settings = load_settings(tool, arguments.overrides, arguments.config_dir, arguments.config_dirs)
    _start_logging()
    module, _, name = tool.dry_run.partition(":")
    function = getattr(importlib.import_module(module), name)
    if not tool.passes_to:
        function(settings.plain(), Path(arguments.picture) if arguments.picture else None)
        return 0
    if arguments.picture:
        raise ConfigError("draws no picture", where=f"{_DRY_RUN}={arguments.picture}", mend=f"write {_DRY_RUN} alone")
    code = function(settings, arguments.folders)
    return code if isinstance(code, int) else 0


def _multirun(tool: Tool, arguments: Arguments) -> int:
    from fusion_det.config.multirun import expand, run_jobs
    from fusion_det.errors import raise_all

    if tool.passes_to:
        raise ConfigError(f"{tool.name} has no multirun", where="-m", mend="leave it out; tools/compare.py takes arms and seeds")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("a multirun cannot run under torchrun", where="-m", mend="start one torchrun per combination")
    jobs = expand(tool, arguments.overrides, arguments.config_dir, arguments.config_dirs)
    faults = []
    for job in jobs:
        try:
            load_settings(tool, job, arguments.config_dir, arguments.config_dirs)
        except ConfigError as error:
            faults.append(error)
        except FusionDetError as error:
            faults += getattr(error, "faults", [error])
    raise_all(list({error.lines[0]: error for error in faults}.values()))
    return run_jobs([sys.executable, "-m", "fusion_det.config.cli", tool.name, *arguments.folders.flags], jobs)


if __name__ == "__main__":
    sys.exit(console())
