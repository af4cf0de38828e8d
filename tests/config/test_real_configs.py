"""Every YAML under configs/ against the code it names: what the checker reads from source is what Python itself sees."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from fusion_det.config.cli import load_settings
from fusion_det.config.compose import NAMED_BY
from fusion_det.config.instantiate import TARGET, resolve
from fusion_det.config.placed import INNER
from fusion_det.config.schema import COMPONENTS
from fusion_det.config.signature import read_signature
from fusion_det.config.tools import TRAIN, list_groups

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
GROUPS = list_groups((CONFIGS,))
FILES = sorted(file for group in (*COMPONENTS, *INNER) for file in (CONFIGS / group).glob("*.yaml"))


def nodes(content: Any) -> Iterator[dict[str, Any]]:
    """Every mapping with a ``_target_`` inside ``content``."""
    if isinstance(content, dict):
        if TARGET in content:
            yield content
        content = list(content.values())
    if isinstance(content, list):
        for item in content:
            yield from nodes(item)


TARGETS = sorted({node[TARGET] for file in FILES for node in nodes(yaml.safe_load(file.read_text()))})


@pytest.mark.parametrize("group", sorted(GROUPS.keys() - {"experiment", "comparison", "local"}))
def test_each_option_gives_a_config_that_passes_every_check(group: str) -> None:
    for option in GROUPS[group]:
        content = yaml.safe_load((CONFIGS / group / f"{option}.yaml").read_text())
        given = [f"{group}.{key}=." for key, value in content.items() if value == "???"]
        owner = ["head=faster_rcnn"] if group == "roi_fusion" else []
        settings = load_settings(TRAIN, [f"{group}={option}", *given, *owner], CONFIGS)
        assert option in settings.name or group not in (*NAMED_BY, *INNER)


@pytest.mark.parametrize("experiment", GROUPS.get("experiment", []))
def test_each_experiment_passes_every_check(experiment: str) -> None:
    settings = load_settings(TRAIN, [f"experiment={experiment}", "data.root=."], CONFIGS)
    assert settings.plain() != load_settings(TRAIN, ["experiment=null", "data.root=."], CONFIGS).plain()


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_each_yaml_lists_all_keys_and_has_comments(file: Path) -> None:
    text = file.read_text()
    content = yaml.safe_load(text)
    assert text.startswith("# ")
    bases = [entry for entry in content.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    if bases:  # a variant states its differences only
        return
    choices = [choice for entry in content.get("defaults", []) if isinstance(entry, dict) for choice in entry]
    placed = {choice.partition("@")[2] for choice in choices if choice.startswith("/")}
    for node in nodes(content):
        inside = placed if node is content else set()  # keys that an option of another group fills: `- /fusion@fusion: add`
        assert (node.keys() | inside) - {TARGET, "defaults"} == read_signature(node[TARGET]).keys.keys()


@pytest.mark.parametrize("target", TARGETS)
def test_source_and_python_agree_on_the_keys(target: str) -> None:
    found = resolve(target)
    read = read_signature(target)
    parameters = inspect.signature(found).parameters.values()
    by_key = [p for p in parameters if p.kind is p.KEYWORD_ONLY or (is_dataclass(found) and p.kind is p.POSITIONAL_OR_KEYWORD)]
    assert {p.name: p.default is p.empty for p in by_key} == {name: key.required for name, key in read.keys.items()}
    assert read.positional == tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p not in by_key)
    untyped = [name for name, key in read.keys.items() if key.annotation is Any]
    assert not untyped, f"annotate with types that the checker knows (see fusion_det/config/annotations.py): {untyped}"


def test_every_pair_of_neck_and_fusion_composes() -> None:
    pairs = list(itertools.product(GROUPS["neck"], GROUPS["fusion"]))
    for neck, fusion in pairs[:: max(1, len(pairs) // 6)]:
        settings = load_settings(TRAIN, [f"neck={neck}", f"fusion={fusion}"], CONFIGS)
        assert f"_{neck}_{fusion}_" in settings.name
