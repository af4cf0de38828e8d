"""Composing a config with Hydra: YAML groups plus overrides in, plain containers out, every refusal in one line.

Hydra's Compose API is used rather than ``@hydra.main``, so that errors, exit codes, logging and the run folder stay ours and one run
folder serves all ranks of a distributed run. Hydra stops at the first override that it cannot apply; here that one is noted and left
out, and the rest is composed, so that all mistakes are told at once.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fusion_det.config.overrides import SEARCH_PATH, Override, normalise, quote, split, take_search_path
from fusion_det.config.passed_on import gather
from fusion_det.config.placed import as_typed, is_inner, may_choose, place, placements, with_owner
from fusion_det.config.suggest import nearest
from fusion_det.config.tools import default_config_dir, get_tool, list_groups
from fusion_det.errors import ConfigError, raise_all

VERSION_BASE = "1.3"
"""The Hydra behaviour that the configs are written for; nowhere else is it named."""

NAMED_BY = ("data", "backbone", "neck", "fusion", "head")
"""The groups whose chosen options make the default name of a run, each followed by those of groups inside it."""


@dataclass
class Composition:
    """A composed config as plain containers, with what could not be applied."""

    config: dict[str, Any]
    choices: dict[str, str | None]
    """Chosen option of each group, also of those inside parts (``fusion@backbone.fusion``); one that was switched off is not in it."""
    folders: tuple[Path, ...]
    """The folders that groups were looked up in, ours first."""
    overrides: list[str]
    """The overrides as typed."""
    unknown: list[Override] = field(default_factory=list)
    """Overrides of keys that do not exist; the checker adds the nearest valid key."""
    faults: list[ConfigError] = field(default_factory=list)
    """Overrides refused for another reason."""


def compose(tool: str, overrides: Sequence[str], config_dir: str | Path | None = None, config_dirs: Sequence[str] = ()) -> Composition:
    """Compose ``<config_dir>/<tool>.yaml`` with ``overrides``; ``config_dirs`` are further folders of options (``--config-dir``).

    Raises ``ConfigError`` (or several as ``Faults``) if nothing can be composed: faulty YAML, a search path that is not there,
    interpolations that lead nowhere. Faults of single overrides are collected in the result.
    """
    root = Path(config_dir).absolute() if config_dir is not None else default_config_dir()
    rest, search_path = take_search_path(overrides, config_dirs)
    folders = (root, *(Path(entry.removeprefix("file://")) for entry in search_path if entry.startswith("file://")))
    result = Composition({}, {}, folders, list(overrides))
    with session(root):
        groups = list_groups(folders)
        rest = gather(get_tool(tool), rest, groups)
        usable = _parse_all(normalise(rest, groups, get_tool(tool).open_nodes), result)
        prefix = [f"{SEARCH_PATH}=[{','.join(map(quote, search_path))}]"] if search_path else []
        composed = _compose_what_can_be(tool, prefix, usable, groups, result)
    choices = OmegaConf.to_container(composed.hydra.runtime.choices)
    assert isinstance(choices, dict)
    result.choices = {
        str(group): None if option is None else _join(option) for group, option in choices.items() if not str(group).startswith("hydra/")
    }
    OmegaConf.set_struct(composed, False)
    composed.pop("hydra")
    result.config = _to_plain(composed)
    if "name" in result.config and result.config["name"] is None:
        result.config["name"] = default_name(result.choices)
    return result


def default_name(choices: dict[str, str | None]) -> str:
    """``scenes_tiny_fpn_add_fcos`` out of the chosen options; ``fusion_resnet-aff`` for one with an option inside."""
    words = [choices.get(group) or "none" for group in NAMED_BY]
    for key, placed in placements(choices).items():
        owner = key.partition(".")[0]
        if owner in NAMED_BY:
            words[NAMED_BY.index(owner)] += f"-{choices[f'{placed}@{key}'] or 'none'}"
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", "_".join(words))[:120]


@contextmanager
def session(config_dir: Path) -> Iterator[None]:
    """Hydra set up on ``config_dir``; whatever global Hydra the caller had is put back afterwards."""
    instance = GlobalHydra.instance()
    theirs = instance.hydra
    instance.clear()
    try:
        with initialize_config_dir(str(config_dir), job_name="fusion_det", version_base=VERSION_BASE):
            yield
    finally:
        GlobalHydra.instance().hydra = theirs


def _parse_all(overrides: Sequence[str], result: Composition) -> list[str]:
    """The overrides that Hydra's grammar accepts; the others become faults."""
    parser, usable = OverridesParser.create(), []
    for text in overrides:
        try:
            parsed = parser.parse_override(text)
            if not parsed.key_or_group:
                raise HydraException("there is no key")
        except HydraException as error:
            result.faults.append(unreadable(text, error))
        else:
            if parsed.is_sweep_override():
                result.faults.append(ConfigError("several values for one run", where=text, mend="add -m to run them one after another"))
            else:
                usable.append(text)
    return usable


def unreadable(text: str, error: Exception) -> ConfigError:
    """The fault of an override outside Hydra's grammar."""
    if "=" not in text:
        return ConfigError("is not KEY=VALUE", where=text, mend="write key=value or group=option; see --help")
    return ConfigError(f"cannot be read: {_first_line(error)}", where=text, mend="quote values with special letters: 'key=\"value\"'")


def _compose_what_can_be(tool: str, prefix: list[str], overrides: list[str], groups: Collection[str], result: Composition) -> DictConfig:
    while True:
        try:
            overrides = _place(tool, prefix, overrides, groups)
            return hydra_compose(tool, [*prefix, *overrides], return_hydra_config=True)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            culprits = _blame(error, overrides, result)
            if not culprits:
                raise ConfigError(_explain(error), mend=_mend_yaml(error)) from error
            overrides = [text for text in overrides if text not in culprits]
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{mark.name}:{mark.line + 1}" if mark else "configs"
            raise ConfigError(f"not valid YAML: {getattr(error, 'problem', None) or error}", where=where) from error


def _place(tool: str, prefix: list[str], overrides: list[str], groups: Collection[str]) -> list[str]:
    """The overrides that choose an option inside a part in Hydra's words; which parts have groups inside depends on the other choices."""
    if not any(may_choose(text) or is_inner(text) for text in overrides):
        return overrides
    choosing = [text for text in overrides if (split(text).package or split(text).key in groups) and not is_inner(text)]
    chosen = hydra_compose(tool, [*prefix, *choosing], return_hydra_config=True).hydra.runtime.choices
    return place(with_owner(overrides, placements(chosen)), placements(chosen))


def _blame(error: Exception, overrides: Sequence[str], result: Composition) -> list[str]:
    """The overrides that ``error`` is about, told in ``result``; none if the YAML files are at fault."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        culprits = [text for text in overrides if split(text).key == group and (split(text).value or "").strip("'\"[] ") == option]
        result.faults += [_no_option(as_typed(split(text)).key, option, error.options or ()) for text in culprits]
        return culprits
    text = str(error)
    if match := re.match(r"Could not override '(.+?)'|Could not delete (?:from config\. )?'(.+?)(?:=.*)?'", text):
        key = match[1] or match[2]
        culprits = [text for text in overrides if split(text).key + split(text).package == key]
        result.unknown += [as_typed(split(text)) for text in culprits if not is_inner(text)]
        ownerless = [ConfigError("no chosen part takes it", where=text, mend=_owner_of(text)) for text in culprits if is_inner(text)]
        result.faults += ownerless
        return culprits
    if match := re.match(r"Could not append to config\. An item is already at '(.+?)'", text):
        culprits = [text for text in overrides if split(text).mark == "+" and split(text).key == match[1]]
        result.faults += [ConfigError("is there already", where=text, mend=f"remove the + : {text[1:]}") for text in culprits]
        return culprits
    culprits = [candidate for candidate in overrides if candidate in text]
    result.faults += [ConfigError(_explain(error), where=culprit) for culprit in culprits]
    return culprits


def _owner_of(text: str) -> str:
    group = split(text).key.partition(".")[0]
    return f"choose a part whose YAML places the group {group}" + ("; head=faster_rcnn does" if group == "roi_fusion" else "")


def _no_option(group: str, option: str, options: Sequence[str]) -> ConfigError:
    close = nearest(option, options)
    hint = f"did you mean {group}={close}? options: " if close else "options: "
    return ConfigError(f"no such option {option!r}", where=group, mend=hint + ", ".join(options))


def _to_plain(config: DictConfig) -> dict[str, Any]:
    """Interpolations resolved, ``???`` kept; all interpolations that lead nowhere are told at once."""
    faults: list[ConfigError] = []
    _find_broken(config, "", faults)
    raise_all(faults)
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _find_broken(node: DictConfig | ListConfig, where: str, faults: list[ConfigError]) -> None:
    for key in node.keys() if isinstance(node, DictConfig) else range(len(node)):
        path = f"{where}.{key}" if where else str(key)
        if OmegaConf.is_missing(node, key):
            continue
        try:
            value = node[key]
        except (OmegaConfBaseException, RecursionError) as error:
            faults.append(ConfigError(_explain(error), where=path, mend="correct the ${...} or give the value"))
            continue
        if isinstance(value, DictConfig | ListConfig) and not OmegaConf.is_interpolation(node, key):
            _find_broken(value, path, faults)


def _explain(error: BaseException) -> str:
    """The telling line of Hydra's or OmegaConf's message, which may sit in the cause."""
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(parts) < 2:
        if (line := _first_line(current)) and line not in parts:
            parts.append(line)
        current = current.__cause__
    return ": ".join(parts) or type(error).__name__


def _mend_yaml(error: BaseException) -> str:
    """What to change in a YAML file that Hydra refuses."""
    if match := re.match(r"In '(.+?)': Could not override '(\w+)@(\w+)\.(\w+)'", str(error)):
        return f"write `override /{match[2]}@_global_.{match[4]}: OPTION` in {match[1]}.yaml"  # else Hydra looks inside its own group
    if isinstance(error, MissingConfigException) and error.options:
        return f"options: {', '.join(error.options)}"
    return "see the YAML named there, or --help"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith("Error parsing override")), "")


def _join(option: str | Sequence[str]) -> str:
    return option if isinstance(option, str) else "+".join(option)
