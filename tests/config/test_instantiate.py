"""The gate from dotted names to code."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest

from fusion_det.config.instantiate import UnsafeError, build, factory, resolve
from fusion_det.errors import ConfigError

pytestmark = pytest.mark.usefixtures("configs")

HOSTILE = [
    "os.system",
    "builtins.eval",
    "builtins.getattr",
    "subprocess.Popen",
    "torch.load",
    "torch.hub.load",
    "functools.partial",
    "pickle.loads",
    "fusion_detector.x.Y",
    "toyparts_evil.parts.Backbone",
    "toyparts.parts.shell",
    "toyparts.parts.os.system",
    "toyparts.parts.os",
    "toyparts.parts.torch.load",
    "toyparts.parts.Field",
    "toyparts.parts.Factory",
    "toyparts.parts.Probability",
    "toyparts.parts._hidden",
    "toyparts.parts.Backbone.__init__",
    "toyparts.parts.Backbone.__init__.__globals__",
    "toyparts.parts.Backbone.__class__",
    "toyparts.parts.__builtins__",
    "fusion_det.config.cli.main",
    "fusion_det.config.files.write_atomic",
    "fusion_det.config.instantiate.importlib.import_module",
    "fusion_det.errors.Sequence",
    "fusion_det..errors.DataError",
    "fusion_det.errors.DataError ",
    "fusion_det",
    "",
    ".",
    "fusion_det/errors.DataError",
    3,
    None,
    ["os.system"],
    {"_target_": "os.system"},
]


def test_builds_with_runtime_parts_first() -> None:
    neck = build(
        {"_target_": "toyparts.parts.Neck", "repeats": 2, "topology": {"_target_": "toyparts.parts.topology", "extra": 3}}, [8, 16]
    )
    assert (neck.levels, neck.repeats, neck.norm) == ([8, 16], 2, "bn")
    assert isinstance(neck.topology, functools.partial)
    assert neck.topology("levels") == ("levels", 3, (0, 1))


def test_nested_nodes_in_lists_and_mappings_become_factories() -> None:
    part = {"_target_": "toyparts.parts.Plain", "gain": 5.0}
    neck = build({"_target_": "toyparts.parts.Neck", "topology": part, "extras": [part, {"inside": part}]}, [8])
    assert neck.extras[0]().gain == 5.0
    assert neck.extras[1]["inside"]().gain == 5.0
    assert neck.extras[0]() is not neck.extras[0]()


def test_factory_waits_for_the_runtime_parts() -> None:
    make = factory({"_target_": "toyparts.parts.topology", "extra": 1})
    assert make([8]) == ([8], 1, (0, 1))


@pytest.mark.parametrize("target", HOSTILE, ids=str)
def test_hostile_targets_are_refused(target: object) -> None:
    with pytest.raises(UnsafeError) as caught:
        build({"_target_": target})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("target", HOSTILE[:8], ids=str)
def test_hostile_targets_are_refused_deep_inside(target: object) -> None:
    nested = {
        "_target_": "toyparts.parts.Neck",
        "topology": {"_target_": "toyparts.parts.Plain"},
        "extras": [[{"a": {"_target_": target}}]],
    }
    with pytest.raises(UnsafeError):
        build(nested, [8])


def test_refusing_runs_nothing() -> None:
    """No import, process, socket or file write happens on the way to a refusal (seen by Python's audit events)."""
    code = f"""
import sys
from fusion_det.config.instantiate import build, UnsafeError
events = []
watched = ("import", "exec", "compile", "os.system", "subprocess.Popen", "socket.connect", "os.exec", "os.posix_spawn")
sys.addaudithook(lambda event, args: events.append((event, args)) if event in watched else None)
for target in {[t for t in HOSTILE if isinstance(t, str) and "toyparts" not in t and not t.startswith("fusion_det.errors.S")]!r}:
    try:
        build({{"_target_": target}})
    except UnsafeError:
        continue
    raise SystemExit(f"{{target}} was not refused")
raise SystemExit(str(events) if events else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_plugins_come_from_the_user_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSION_DET_PLUGINS")
    with pytest.raises(UnsafeError, match="--plugins"):
        build({"_target_": "toyparts.parts.Plain"})
    monkeypatch.setenv("FUSION_DET_PLUGINS", " other , toyparts.parts ")
    assert build({"_target_": "toyparts.parts.Plain"}).gain == 1.0
    with pytest.raises(UnsafeError):
        build({"_target_": "toyparts.runs.train"})


def test_reexports_of_allowed_objects_work() -> None:
    assert resolve("toyparts.Renamed").__name__ == "Backbone"


def test_forged_module_names_are_refused() -> None:
    import toyparts.parts as parts

    def stranger(*, a: int = 0) -> int:
        return a

    stranger.__module__, stranger.__qualname__ = "toyparts.parts", "Backbone"
    parts.planted = stranger
    with pytest.raises(UnsafeError, match="not what"):
        build({"_target_": "toyparts.parts.planted"})


def test_config_fills_keyword_only_parameters_only() -> None:
    with pytest.raises(ConfigError, match="run-time part"):
        build({"_target_": "toyparts.parts.Neck", "levels": [8], "topology": None})
    with pytest.raises(ConfigError, match="did you mean 'repeats'"):
        build({"_target_": "toyparts.parts.Neck", "repeat": 2, "topology": None}, [8])
    assert build({"_target_": "toyparts.parts.Fields", "size": 2}).size == 2
    with pytest.raises(TypeError, match="both"):
        build({"_target_": "toyparts.parts.Plain", "gain": 1.0}, gain=2.0)


def test_import_failures_show_their_cause() -> None:
    with pytest.raises(ConfigError, match=r"no_such_library.*broken\.py:1"):
        build({"_target_": "toyparts.broken.Part"})
    with pytest.raises(ConfigError, match="did you mean 'Backbone'"):
        build({"_target_": "toyparts.parts.Backbon"})
    with pytest.raises(ConfigError, match="_target_"):
        build({"width": 3})
