"""Reading the keys of a component from its source."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from fusion_det.config.describe import describe
from fusion_det.config.instantiate import UnsafeError
from fusion_det.config.signature import read_signature
from fusion_det.config.values import check_node
from fusion_det.errors import ConfigError

pytestmark = pytest.mark.usefixtures("configs")


def words(target: str) -> dict[str, str]:
    return {name: describe(key.annotation) for name, key in read_signature(target).keys.items()}


def faults(target: str, **values: Any) -> list[str]:
    return [str(fault) for fault in check_node({"_target_": f"toyparts.parts.{target}", **values}, "part")]


def test_annotations_become_words() -> None:
    assert words("toyparts.parts.Backbone") == {
        "width": "a whole number above 0",
        "depths": "a list of whole numbers above 0",
        "pretrained": "true or false",
        "name": "text or null",
    }
    assert words("toyparts.parts.Neck")["norm"] == "one of none, bn, gn"
    assert words("toyparts.parts.Neck")["topology"] == "a node with _target_"
    assert words("toyparts.parts.topology") == {
        "extra": "a whole number from 0 to 4",
        "span": "a list of 2: [a whole number, a whole number]",
    }
    assert words("toyparts.parts.Head")["dropout"] == "a number from 0 to 1"
    assert words("toyparts.parts.Head")["prior"] == "a number above 0 and below 1"


def test_nothing_is_imported() -> None:
    read_signature("toyparts.parts.Backbone")
    read_signature("toyparts.Renamed")
    assert not [name for name in sys.modules if name.startswith("toyparts")]


def test_kinds_of_targets() -> None:
    assert set(read_signature("toyparts.Renamed").keys) == {"width", "depths", "pretrained", "name"}
    assert set(read_signature("toyparts.parts.Plain").keys) == {"gain"}
    assert set(read_signature("toyparts.parts.FancyHead").keys) == {"convs", "dropout", "prior"}
    assert read_signature("toyparts.parts.FancyHead").open
    assert read_signature("toyparts.parts.Module").keys == {}
    assert not read_signature("toyparts.parts.Module").open
    fields = read_signature("toyparts.parts.Fields").keys
    assert {name: key.required for name, key in fields.items()} == {"size": True, "label": False}
    model = read_signature("toyparts.parts.Model").keys
    assert {name: key.required for name, key in model.items()} == {"rate": True, "steps": False}
    assert read_signature("toyparts.parts.Neck").positional == ("levels",)


@pytest.mark.parametrize(
    ("target", "values", "complaint"),
    [
        ("Backbone", {"width": "3", "depths": [1]}, "part.width: got '3', expected a whole number above 0"),
        ("Backbone", {"width": True, "depths": [1]}, "part.width: got true, expected"),
        ("Backbone", {"width": 3.0, "depths": [1]}, "part.width: got 3.0"),
        ("Backbone", {"width": 0, "depths": [1]}, "part.width: got 0"),
        ("Backbone", {"width": None, "depths": [1]}, "part.width: got null"),
        ("Backbone", {"width": 3, "depths": [1, 0]}, "part.depths: got [1, 0], expected a list of whole numbers above 0"),
        ("Backbone", {"width": 3, "depths": 1}, "part.depths: got 1"),
        ("Backbone", {"width": 3, "depths": [1], "pretrained": "no"}, "part.pretrained: got 'no', expected true or false"),
        ("Backbone", {"width": 3, "depths": [1], "name": 5}, "part.name: got 5, expected text or null"),
        ("Backbone", {"width": 3}, "part.depths: missing, expected a list"),
        ("Backbone", {"width": 3, "depths": [1], "widht": 3}, "part.widht: unknown key (got 3) -> did you mean part.width?"),
        ("optimizer", {"lr": -1}, "part.lr: got -1, expected a number above 0"),
        ("optimizer", {"lr": float("nan")}, "part.lr: got nan"),
        ("optimizer", {"lr": float("inf")}, "part.lr: got inf"),
        ("optimizer", {"lr": 10**400}, "part.lr: got 1000"),
        ("optimizer", {"lr": 1, "betas": [0.9]}, "part.betas: got [0.9], expected a list of 2"),
        ("optimizer", {"lr": 1, "params": 3}, "part.params: is a run-time part"),
        ("Head", {"dropout": 1.3}, "part.dropout: got 1.3, expected a number from 0 to 1"),
        ("Head", {"prior": 1}, "part.prior: got 1, expected"),
        ("Neck", {"topology": 3}, "part.topology: got 3, expected a node with _target_"),
        ("Neck", {"topology": {"_target_": "os.system"}}, "part.topology._target_: _target_ 'os.system' is refused for safety"),
        ("Neck", {"topology": {"_target_": "toyparts.parts.topology", "extra": 5}}, "part.topology.extra: got 5"),
        ("Neck", {"topology": {"_target_": "toyparts.parts.topology"}, "norm": "ln"}, "part.norm: got 'ln', expected one of none, bn, gn"),
        (
            "Neck",
            {"topology": {"_target_": "toyparts.parts.topology"}, "extras": [{"_target_": "toyparts.parts.Nope"}]},
            "part.extras.0._target_",
        ),
        ("Model", {"rate": 1, "stepz": 3}, "part.stepz: unknown key (got 3) -> did you mean part.steps?"),
    ],
)
def test_each_wrong_value_is_one_line(target: str, values: dict[str, Any], complaint: str) -> None:
    found = faults(target, **values)
    assert len(found) == 1
    assert found[0].startswith(complaint)
    assert len(found[0]) < 300


@pytest.mark.parametrize(
    ("target", "values"),
    [
        ("Backbone", {"width": 3, "depths": [1]}),
        ("Backbone", {"width": 3, "depths": [], "name": "x"}),
        ("optimizer", {"lr": 1}),
        ("optimizer", {"lr": 1e-3, "betas": [0, 1], "decay": 0}),
        ("Neck", {"topology": {"_target_": "toyparts.parts.topology"}, "extras": [{"_target_": "toyparts.parts.Plain", "gain": 1}]}),
        ("Head", {"dropout": 0, "anything": 3}),
        ("Backbone", {"width": "???", "depths": [1]}),
    ],
)
def test_right_values_pass(target: str, values: dict[str, Any]) -> None:
    assert faults(target, **values) == []


def test_wrong_targets() -> None:
    with pytest.raises(ConfigError, match=r"did you mean toyparts\.parts\.Backbone"):
        read_signature("toyparts.parts.Backbon")
    with pytest.raises(ConfigError, match=r"no module 'toyparts\.part'"):
        read_signature("toyparts.part.Backbone")
    with pytest.raises(ConfigError, match=r"garbled\.py:\d+.*not valid Python"):
        read_signature("toyparts.garbled.Part")
    for alias in ("toyparts.parts.shell", "toyparts.parts.os.system", "toyparts.parts.torch.load"):
        with pytest.raises(UnsafeError, match="under another name"):
            read_signature(alias)


def test_a_broken_import_does_not_matter_here() -> None:
    assert read_signature("toyparts.broken.Part").keys == {}


def test_circular_aliases_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ringparts.py").write_text(
        "from ringparts import A as B\nfrom ringparts import B as A\nX = Y\nY = X\ndef f(*, x: X): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FUSION_DET_PLUGINS", "ringparts")
    with pytest.raises(ConfigError):
        read_signature("ringparts.A")
    assert words("ringparts.f") == {"x": "any value"}
