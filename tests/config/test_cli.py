"""Flags, exit codes, sweeps, and that nothing heavy is imported before it is needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import fusion_det
from fusion_det.config import tools
from fusion_det.config.cli import console, main
from fusion_det.config.multirun import expand, run_jobs
from fusion_det.config.tools import EVALUATE, TRAIN
from fusion_det.errors import ConfigError


@pytest.fixture
def runs(configs: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the toy train and evaluate functions were called with."""
    for tool in (TRAIN, EVALUATE):
        monkeypatch.setitem(tools.TOOLS, tool.name, tool._replace(run=f"toyparts.runs:{tool.name}"))
    from toyparts import runs

    return runs.seen


def call(configs: Path, *arguments: str, tool: str = "train") -> int:
    return main(tool, ["--config-path", str(configs), *arguments])


def test_settings_and_overrides_reach_the_tool(configs: Path, runs: list[object], tmp_path: Path) -> None:
    assert call(configs, "neck=bifpn", "seed=3") == 0
    settings, overrides = runs.pop()
    assert (settings.neck["repeats"], settings.seed, overrides) == (3, 3, ["neck=bifpn", "seed=3"])
    (tmp_path / "a=b, c.pt").touch()
    assert call(configs, f"checkpoint={tmp_path}/a=b, c.pt", tool="evaluate") == 4  # what the tool returned
    assert runs.pop().checkpoint == f"{tmp_path}/a=b, c.pt"


def test_faults_are_lines_on_stderr(configs: Path, runs: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(configs, "sed=3", "trainer.epochs=0") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "error: sed: unknown key (got '3') -> did you mean seed?",
        "error: trainer.epochs: got 0, expected a whole number above 0",
    ]
    assert not runs


def test_bugs_keep_their_traceback_and_ctrl_c_is_130(configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tools.TOOLS, "train", TRAIN._replace(run="toyparts.runs:crash"))
    with pytest.raises(ZeroDivisionError):
        call(configs)
    monkeypatch.setitem(tools.TOOLS, "train", TRAIN._replace(run="toyparts.runs:stop"))
    assert call(configs) == 130


def test_flags(configs: Path, runs: list[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main("train", ["--version"]) == 0
    assert capsys.readouterr().out == f"fusion-det {fusion_det.__version__}\n"
    assert call(configs, "seed=3", "--cfg", "job", "neck=bifpn") == 0  # flags may stand anywhere
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["seed"], printed["neck"]["repeats"]) == (3, 3)
    assert call(configs, "--cfg=job", tool="evaluate") == 0
    assert yaml.safe_load(capsys.readouterr().out)["checkpoint"] is None
    for wrong, hint in [
        (["--cfg", "all"], "--cfg: got 'all', expected job"),
        (["--cfg"], "a value must follow"),
        (["--multrun"], "did you mean --multirun?"),
        (["--config-dir", "/nowhere"], "/nowhere: no such folder"),
        (["--cfg", "job", "sed=1"], "did you mean seed?"),
    ]:
        assert call(configs, *wrong) == 2
        assert hint in capsys.readouterr().err
    assert main("train", ["--config-path", "/nowhere"]) == 2
    assert main("trian", []) == 2
    monkeypatch.setenv("RANK", "3")
    assert call(configs, "sed=3") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: rank 3: sed")
    assert not runs


def test_plugins_flag(configs: Path, runs: list[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSION_DET_PLUGINS", "")
    assert call(configs) == 2
    assert "refused for safety" in capsys.readouterr().err
    assert call(configs, "--plugins", "toyparts") == 0
    assert os.environ["FUSION_DET_PLUGINS"] == "toyparts"


def test_console(configs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, text in [
        ([], 0, "usage: fusion-det TOOL"),
        (["--version"], 0, fusion_det.__version__),
        (["predict", "--help"], 0, "fusion-det predict checkpoint="),
        (["trian"], 2, "tools: train, evaluate, predict"),
    ]:
        monkeypatch.setattr(sys, "argv", ["fusion-det", *arguments])
        assert console() == code
        assert text in "".join(capsys.readouterr())


def test_config_errors_come_before_torch(configs: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from fusion_det.config.cli import main
for tool, arguments in [("train", ["sed=3", "trainer.epochs=0", "neck.topology._target_=os.system"]), ("train", ["neck=nope"]),
                        ("train", ["init_from=/nowhere.pt"]), ("evaluate", ["checkpoint=/nowhere.pt"]), ("predict", [])]:
    assert main(tool, ["--config-path", {str(configs)!r}, *arguments]) == 2, (tool, arguments)
loaded = [name for name in ("torch", "timm", "torchvision", "toyparts", "matplotlib", "fusion_det.engine.run") if name in sys.modules]
raise SystemExit(f"loaded {{loaded}}" if loaded else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def jobs(configs: Path, *overrides: str) -> list[list[str]]:
    return expand(TRAIN, overrides, configs)


def test_sweeps_expand_like_hydras(configs: Path) -> None:
    assert jobs(configs, "neck=fpn,bifpn", "trainer.epochs=2", "seed=range(0,2)") == [
        ["neck=fpn", "trainer.epochs=2", "seed=0"],
        ["neck=fpn", "trainer.epochs=2", "seed=1"],
        ["neck=bifpn", "trainer.epochs=2", "seed=0"],
        ["neck=bifpn", "trainer.epochs=2", "seed=1"],
    ]
    assert jobs(configs, "neck=glob(*)") == [["neck=bifpn"], ["neck=fpn"]]
    assert jobs(configs, "fusion=add,null") == [["fusion=add"], ["fusion=null"]]
    assert jobs(configs, "optimizer.betas=[0,1],[0.5,1]") == [["optimizer.betas=[0,1]"], ["optimizer.betas=[0.5,1]"]]
    assert jobs(configs, "seed=1") == [["seed=1"]]
    assert expand(EVALUATE, ["checkpoint=a.pt,b c.pt"], configs) == [["checkpoint=a.pt"], ["checkpoint='b c.pt'"]]
    assert jobs(configs, f"hydra.searchpath=[{configs}]", "seed=1,2")[1] == [f"hydra.searchpath=[{configs}]", "seed=2"]
    for wrong in ("seed=interval(0,1)", "seed", "seed=[1"):
        with pytest.raises(ConfigError):
            jobs(configs, wrong)


def test_a_path_with_a_comma_is_one_path(configs: Path, tmp_path: Path) -> None:
    (tmp_path / "a,b.pt").touch()
    assert expand(EVALUATE, [f"checkpoint={tmp_path}/a,b.pt"], configs) == [[f"checkpoint='{tmp_path}/a,b.pt'"]]


SCRIPT = "import sys; open(sys.argv[1], 'a').write(sys.argv[2] + '\\n'); sys.exit(int(sys.argv[2]))"


def test_jobs_go_on_after_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    assert run_jobs([sys.executable, "-c", SCRIPT, str(log)], [["0"], ["3"], ["4"], ["0"]]) == 3
    assert log.read_text() == "0\n3\n4\n0\n"
    assert "[2/4] exit code 3" in capsys.readouterr().err
    assert run_jobs([sys.executable, "-c", SCRIPT, str(log)], [["0"], ["0"]]) == 0


def test_a_stopped_job_stops_the_sweep(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run_jobs([sys.executable, "-c", SCRIPT, str(log)], [["143"], ["0"]]) == 143
    assert log.read_text() == "143\n"
    assert run_jobs([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], [[]]) == 137


def test_sigterm_reaches_the_running_job(tmp_path: Path) -> None:
    child = f"""
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
open({str(tmp_path / "up")!r}, "w")
time.sleep(30)
"""
    parent = f"import sys; from fusion_det.config.multirun import run_jobs; sys.exit(run_jobs([sys.executable, '-c', {child!r}], [[], []]))"
    process = subprocess.Popen([sys.executable, "-c", parent])
    deadline = time.monotonic() + 30
    while not (tmp_path / "up").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143


def test_multirun_checks_all_jobs_first(configs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr("fusion_det.config.multirun.run_jobs", lambda command, jobs: started.append((command, jobs)) or 5)
    assert call(configs, "-m", "seed=0,-1", "trainer.epochs=0,2") == 2
    assert capsys.readouterr().err.count("error: ") == 2
    assert not started
    assert call(configs, "-m", "seed=0,1", "--config-dir", str(configs)) == 5
    ((command, found),) = started
    assert command[1:] == ["-m", "fusion_det.config.cli", "train", "--config-path", str(configs), "--config-dir", str(configs)]
    assert found == [["seed=0"], ["seed=1"]]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert call(configs, "-m", "seed=0,1") == 2


def test_the_command_of_a_job_works() -> None:
    command = [sys.executable, "-m", "fusion_det.config.cli", "predict", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"fusion-det {fusion_det.__version__}\n")
