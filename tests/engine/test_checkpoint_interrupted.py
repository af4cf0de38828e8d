"""Saves that die or fail half-way: at every instant the folder holds a whole checkpoint."""

import errno
import os
from pathlib import Path

import pytest
import torch
from checkpoint_cases import names_in, small_state

from fusion_det.engine.checkpoint import history, load_checkpoint, newest_good, save_checkpoint
from fusion_det.errors import FusionDetError

torch.set_num_threads(1)


class Killed(BaseException):
    """Stands for kill -9: nothing that the process would do after it takes place."""


class FileSystem:
    """Counts the calls that change files and lets the process die at the n-th one (a write then happens by half)."""

    NAMES = ("open", "write", "fsync", "replace", "link", "unlink", "close", "listdir", "scandir", "rename", "remove")

    def __init__(self, monkeypatch, *, die_at: int | None = None, links: bool = True):
        self.calls, self.die_at, self.links = 0, die_at, links
        self.descriptors: set[int] = set()
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name, function):
        def call(*arguments, **options):
            self.calls += 1
            if self.die_at is not None and self.calls >= self.die_at:
                if name == "write" and self.calls == self.die_at:
                    function(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise Killed
            if name == "link" and not self.links:
                raise OSError(errno.EPERM, "no hard links here")
            result = function(*arguments, **options)
            if name == "open":
                self.descriptors.add(result)
            elif name == "close":
                self.descriptors.discard(arguments[0])
            return result

        return call


class TestInterruptedSave:
    @pytest.mark.parametrize(("keep", "links", "size"), [(2, True, 50), (3, True, 50), (2, False, 50), (2, True, 600_000)])
    def test_death_at_any_file_system_call_leaves_a_good_checkpoint(self, tmp_path, keep, links, size):
        def fresh(name: str) -> Path:
            folder = tmp_path / name
            folder.mkdir()
            for number in range(1, keep + 2):
                save_checkpoint(folder / "last.pt", small_state(number, size), keep=keep)
            return folder / "last.pt"

        with pytest.MonkeyPatch.context() as patch:
            path = fresh("count")
            system = FileSystem(patch, links=links)
            save_checkpoint(path, small_state(99, size), keep=keep)
        assert system.calls >= 10
        newest = keep + 1
        for call in range(1, system.calls + 1):
            path = fresh(f"die{call}")
            with pytest.MonkeyPatch.context() as patch:
                system = FileSystem(patch, die_at=call, links=links)
                with pytest.raises(Killed):
                    save_checkpoint(path, small_state(99, size), keep=keep)
            for descriptor in system.descriptors:
                os.close(descriptor)
            good = newest_good(path.parent)
            assert good == path  # never even a fall-back: last.pt itself is whole at every instant
            assert load_checkpoint(good)["iteration"] in (newest, 99)
            others = [name for name in history(path, keep)[1:] if name.exists()]
            assert others
            assert all(load_checkpoint(name)["iteration"] <= newest for name in others)

            save_checkpoint(path, small_state(100, size), keep=keep)
            assert load_checkpoint(newest_good(path.parent))["iteration"] == 100
            assert names_in(path.parent) == sorted(name.name for name in history(path, keep))

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
    def test_an_error_at_any_call_keeps_the_old_and_leaves_nothing(self, tmp_path, number):
        path = tmp_path / "last.pt"
        for n in (1, 2):
            save_checkpoint(path, small_state(n, 600_000))
        for name in ("write", "fsync", "link", "open", "replace"):

            def fail(*_arguments, **_options):
                raise OSError(number, os.strerror(number))

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, name, fail)
                with pytest.raises(FusionDetError, match="cannot save the checkpoint") as caught:
                    save_checkpoint(path, small_state(3, 600_000))
            assert caught.value.exit_code == 1
            assert os.strerror(number) in str(caught.value)
            assert load_checkpoint(path)["iteration"] == 2
            assert names_in(tmp_path) == ["last.pt", "previous.pt"]

    def test_a_real_file_size_limit(self, tmp_path):
        resource = pytest.importorskip("resource")
        save_checkpoint(tmp_path / "last.pt", small_state(1))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(FusionDetError, match="cannot save the checkpoint"):
                save_checkpoint(tmp_path / "last.pt", small_state(2, 1_000_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert names_in(tmp_path) == ["last.pt"]
        assert load_checkpoint(tmp_path / "last.pt")["iteration"] == 1

    def test_data_reaches_the_disk_before_its_name_does(self, tmp_path, monkeypatch):
        save_checkpoint(tmp_path / "last.pt", small_state(1))
        events = []
        for name in ("write", "fsync", "replace"):
            real = getattr(os, name)
            monkeypatch.setattr(os, name, lambda *a, _name=name, _real=real: (events.append(_name), _real(*a))[1])
        save_checkpoint(tmp_path / "last.pt", small_state(2))
        last_write = len(events) - 1 - events[::-1].index("write")
        assert events[last_write + 1 :] == ["fsync", "replace", "replace", "fsync"]

    def test_a_missing_folder_is_a_user_error(self, tmp_path):
        with pytest.raises(FusionDetError, match="No such file"):
            save_checkpoint(tmp_path / "no" / "last.pt", small_state(1))

    def test_leftovers_of_the_dead_are_removed_and_of_the_living_kept(self, tmp_path):
        dead, living = 2**22 + 5, os.getppid()  # larger than any process id of Linux
        for name in (f".last.pt.{dead}.0123abcd.tmp", f".previous.pt.{os.getpid()}.0123abcd.tmp", f".last.pt.{living}.0123abcd.tmp"):
            (tmp_path / name).write_text("half")
        (tmp_path / f".other.pt.{dead}.0123abcd.tmp").write_text("not ours")
        save_checkpoint(tmp_path / "last.pt", small_state(1))
        assert names_in(tmp_path) == sorted([f".last.pt.{living}.0123abcd.tmp", f".other.pt.{dead}.0123abcd.tmp", "last.pt"])
