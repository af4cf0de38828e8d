"""The run folder: made once, held by one live process, found again."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import yaml

from fusion_det.config import environment, files
from fusion_det.config.environment import describe_environment, git_commit, scrub
from fusion_det.config.files import write_atomic, write_json
from fusion_det.config.lock import FolderLock
from fusion_det.config.run_folder import RunFolder, find_resume, is_finished, make_run_folder
from fusion_det.config.schema import TrainConfig
from fusion_det.errors import ConfigError, FusionDetError

NODE = {"_target_": "fusion_det.x.Y"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(**values: object) -> TrainConfig:
    parts = ("backbone", "neck", "head", "late_fusion", "data", "augment", "optimizer", "schedule")
    return TrainConfig.model_validate({"name": "toy", **dict.fromkeys(parts, NODE), **values})


def make(**values: object) -> RunFolder:
    return make_run_folder(settings(**values), ["seed=0"])


def finish(folder: Path, *, finished: bool = True) -> None:
    (folder / "last.pt").touch()
    (folder / "results.json").write_text(json.dumps({"finished": finished}))


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_a_new_folder_and_its_records(here: Path) -> None:
    first, second = make(seed=5), make()
    assert re.fullmatch(r"runs/toy/\d{8}-\d{6}-[0-9a-f]{4}", str(first.path))
    assert first.path != second.path
    assert names(first.path) == {".lock", "config.yaml", "overrides.yaml", "environment.json"}
    assert yaml.safe_load((first.path / "config.yaml").read_text()) == settings(seed=5).plain()
    assert TrainConfig.model_validate(yaml.safe_load((first.path / "config.yaml").read_text())) == settings(seed=5)
    assert yaml.safe_load((first.path / "overrides.yaml").read_text()) == ["seed=0"]
    written = json.loads((first.path / "environment.json").read_text())
    assert written["seed"] == 5
    assert written["packages"]["pydantic"]
    assert (first.checkpoint, first.finished) == (None, False)


def test_an_explicit_folder_must_be_free(here: Path) -> None:
    (here / "empty").mkdir()
    folder = make(run_dir="empty")
    assert folder.path == Path("empty")
    folder.release()
    with pytest.raises(ConfigError, match=r"empty: already in use.*resume=auto"):
        make(run_dir="empty")
    (here / "full").mkdir()
    (here / "full" / "thesis.doc").touch()
    for resume in (None, "auto"):
        with pytest.raises(ConfigError, match="already in use"):
            make(run_dir="full", resume=resume)
    assert names(here / "full") == {"thesis.doc"}
    assert make(run_dir="deep/er").path.is_dir()


def test_folders_that_cannot_be_written(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "file").touch()
    for run_dir in ("file", "file/below"):
        with pytest.raises(FusionDetError, match=r"file.*cannot write") as caught:
            make(run_dir=run_dir)
        assert caught.value.exit_code == 1

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fusion_det.config.run_folder.write_yaml", refuse)
    with pytest.raises(FusionDetError, match="denied: cannot write: Permission denied"):
        make(run_dir="denied")
    monkeypatch.undo()
    os.chdir(here)
    make(run_dir="denied")  # nothing was left that blocks it


def test_resume_auto_takes_the_newest_unfinished_run(here: Path) -> None:
    assert find_resume(settings(resume="auto")) is None
    runs = here / "runs" / "toy"
    for name in ("20250101-000000-aaaa", "20250102-000000-aaaa", "20250103-000000-aaaa", "20250104-000000-aaaa"):
        (runs / name).mkdir(parents=True)
    (runs / "20250101-000000-aaaa" / "last.pt").touch()
    (runs / "20250102-000000-aaaa" / "last.pt").touch()
    finish(runs / "20250103-000000-aaaa")
    os.utime(runs / "20250101-000000-aaaa" / "last.pt", (2e9, 2e9))  # a copy's time stamp says nothing
    found = Path("runs/toy/20250102-000000-aaaa/last.pt")
    assert find_resume(settings(resume="auto")) == found
    assert find_resume(settings(resume=None)) is None
    assert find_resume(settings(resume="auto", name="other")) is None
    folder = make(resume="auto")
    assert (folder.path, folder.checkpoint, folder.finished) == (found.parent, found, False)
    with pytest.raises(ConfigError, match=rf"already in use by process {os.getpid()}"):
        make(resume="auto")
    folder.release()
    finish(found.parent, finished=False)
    assert find_resume(settings(resume="auto")) == found
    (found.parent / "results.json").write_text("{half")
    assert not is_finished(found.parent)


def test_resume_auto_with_an_explicit_folder(here: Path) -> None:
    first = make(run_dir="run", resume="auto")
    assert first.checkpoint is None
    first.release()
    again = make(run_dir="run", resume="auto")  # died before its first checkpoint: from the start, same folder
    assert (again.path, again.checkpoint) == (Path("run"), None)
    again.release()
    (here / "run" / "last.pt").touch()
    third = make(run_dir="run", resume="auto")
    assert third.checkpoint == Path("run/last.pt")
    third.release()
    finish(here / "run")
    before = {entry.name: entry.read_bytes() for entry in (here / "run").iterdir() if entry.name != ".lock"}
    done = make(run_dir="run", resume="auto", seed=9)
    assert done.finished
    assert {entry.name: entry.read_bytes() for entry in (here / "run").iterdir() if entry.name != ".lock"} == before


def test_resume_from_a_named_place(here: Path) -> None:
    first = make()
    first.release()
    with pytest.raises(ConfigError, match=r"last\.pt"):
        find_resume(settings(resume=str(first.path)))
    (first.path / "last.pt").touch()
    (first.path / "epoch_3.pt").touch()
    folder = make(resume=str(first.path))
    assert (folder.path, folder.checkpoint) == (first.path, first.path / "last.pt")
    folder.release()
    folder = make(resume=str(first.path / "epoch_3.pt"))
    assert (folder.path, folder.checkpoint) == (first.path, first.path / "epoch_3.pt")
    elsewhere = make(resume=str(first.path / "epoch_3.pt"), run_dir="other")
    assert (elsewhere.path, elsewhere.checkpoint) == (Path("other"), first.path / "epoch_3.pt")


def contend(run_dir: str, gate: Event, over: Event, results: multiprocessing.Queue[str]) -> None:
    gate.wait(20)
    try:
        make(run_dir=run_dir)
    except ConfigError as error:
        results.put(str(error))
    else:
        results.put("won")
        over.wait(20)  # hold it until all others have tried


def test_of_racing_starts_exactly_one_wins(here: Path) -> None:
    context = multiprocessing.get_context("fork")
    for round_number in range(3):
        gate, over, results = context.Event(), context.Event(), context.Queue()
        racers = [context.Process(target=contend, args=(f"race{round_number}", gate, over, results)) for _ in range(6)]
        for racer in racers:
            racer.start()
        gate.set()
        told = [results.get(timeout=20) for _ in racers]
        over.set()
        for racer in racers:
            racer.join(20)
        assert told.count("won") == 1, told
        assert all("already in use" in line for line in told if line != "won")


def test_a_folder_used_between_making_and_locking_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make_and_lose(folder: Path, *, exact: bool) -> Path:
        folder.mkdir()
        (folder / "config.yaml").touch()  # of a run that came, ended and released its lock meanwhile
        return folder

    monkeypatch.setattr("fusion_det.config.run_folder._make", make_and_lose)
    with pytest.raises(ConfigError, match="not empty"):
        make(run_dir="run")
    monkeypatch.undo()
    FolderLock(here / "run").release()


def test_default_names_never_collide_in_the_same_second(here: Path) -> None:
    folders = [make().path for _ in range(40)]
    assert len(set(folders)) == 40


HOLD = """
import sys, time
from pathlib import Path
from fusion_det.config.lock import FolderLock
FolderLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_falls_with_its_process(here: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(here)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=rf"already in use by process {holder.pid} on .* since \d{{4}}-"):
        FolderLock(here)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    lock = FolderLock(here)  # taken over from the dead process
    assert json.loads((here / ".lock").read_text())["pid"] == os.getpid()
    lock.release()
    lock.release()
    FolderLock(here).release()


def test_a_recycled_process_id_does_not_block(here: Path) -> None:
    (here / ".lock").write_text(json.dumps({"pid": os.getpid(), "host": "x", "process": "of an earlier life"}))
    FolderLock(here).release()
    (here / ".lock").write_text("not json")
    FolderLock(here).release()


def test_a_link_in_place_of_the_lock_is_refused(here: Path) -> None:
    (here / "target").touch()
    (here / ".lock").symlink_to(here / "target")
    with pytest.raises(OSError):
        FolderLock(here)


def test_write_atomic_replaces_or_leaves_the_old(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = here / "a.json"
    write_atomic(file, b"old")
    assert file.stat().st_mode & 0o777 == 0o666 & ~current_umask()
    synced: list[str] = []
    monkeypatch.setattr(files.os, "fsync", lambda handle: synced.append(str(Path(f"/proc/self/fd/{handle}").readlink())))
    write_atomic(file, b"new")
    assert file.read_bytes() == b"new"
    assert len(synced) == 2
    assert synced[0].endswith(".tmp")
    assert synced[1] == str(here)

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomic(file, b"half")
    assert file.read_bytes() == b"new"
    assert names(here) == {"a.json"}
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, {"ap": float("nan")})


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_secrets_and_the_home_folder_are_scrubbed(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    for text, clean in [
        ("data.root=/home/ada/coco", "data.root=~/coco"),
        ("/home/adam/x", "/home/adam/x"),
        ("logger.api_key=abc123", "logger.api_key=***"),
        ("WANDB_TOKEN=s3cret", "WANDB_TOKEN=***"),
        ("https://ada:pw@host/x.git", "https://***@host/x.git"),
        ("seed=3", "seed=3"),
    ]:
        assert scrub(text) == clean
    monkeypatch.setattr(environment.sys, "argv", ["/home/ada/tools/train.py", "my.password=x"])
    assert describe_environment(3)["command"] == ["~/tools/train.py", "my.password=***"]
    assert "x" not in (make_run_folder(settings(), ["my.password=x"]).path / "overrides.yaml").read_text().partition("=")[2]


def test_commit_is_read_without_git(here: Path) -> None:
    commit, other = "a" * 40, "b" * 40
    assert git_commit(here) is None
    git = here / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text(f"{commit}\n")
    assert git_commit(here) == commit
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert git_commit(here) is None
    (git / "packed-refs").write_text(f"# pack-refs\n{other} refs/heads/main\n")
    assert git_commit(here) == other
    (git / "refs" / "heads" / "main").write_text(f"{commit}\n")
    assert git_commit(here) == commit
    worktree = here / "tree"
    worktree.mkdir()
    (git / "worktrees" / "tree").mkdir(parents=True)
    (git / "worktrees" / "tree" / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "worktrees" / "tree" / "commondir").write_text("../..\n")
    (worktree / ".git").write_text(f"gitdir: {git}/worktrees/tree\n")
    assert git_commit(worktree) == commit
    (git / "HEAD").write_text("rubbish")
    assert git_commit(here) is None
