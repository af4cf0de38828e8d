"""Checkpoints: what goes in comes out, what does not belong in is refused, and the names of the history."""

import collections
import hashlib
import os
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_cases import names_in, small_state

from fusion_det.engine.checkpoint import history, load_checkpoint, newest_good, save_checkpoint
from fusion_det.errors import CheckpointError, FusionDetError

torch.set_num_threads(1)


def assert_equal(left: object, right: object) -> None:
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_equal(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert_equal(a, b)
    else:
        assert left == right or left != left


class TestRoundTrip:
    def test_everything_allowed_comes_back_equal(self, tmp_path):
        state = {
            "format_version": 1,
            "model": {
                "half": torch.randn(3, 4).bfloat16(),
                "fp16": torch.randn(2).half(),
                "count": torch.tensor(7),
                "empty": torch.empty(0, 4),
            },
            "flags": torch.tensor([True, False]),
            "bytes": torch.arange(256, dtype=torch.uint8),
            "double": torch.randn(5, dtype=torch.float64),
            "strided": torch.arange(12.0).view(3, 4).t(),
            "nested": [1, (2.5, None, True, -(2**100)), {"a": {3: "ä\n"}}, float("-inf"), float("nan")],
            "rng": random.Random(3).getstate(),
            "nothing": {},
        }
        save_checkpoint(tmp_path / "last.pt", state)
        assert_equal(load_checkpoint(tmp_path / "last.pt"), state)

    def test_states_of_real_objects(self, tmp_path):
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5])
        net(torch.randn(2, 3, 8, 8)).square().sum().backward()
        optimizer.step()
        schedule.step()
        save_checkpoint(
            tmp_path / "last.pt",
            {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), "weight": net[0].weight},
        )
        loaded = load_checkpoint(tmp_path / "last.pt")
        assert type(loaded["model"]) is dict
        for name, tensor in net.state_dict().items():
            assert torch.equal(loaded["model"][name], tensor)
        optimizer.load_state_dict(loaded["optimizer"])
        assert torch.equal(loaded["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])

    def test_plain_torch_and_zip_read_the_file(self, tmp_path):
        path = tmp_path / "last.pt"
        save_checkpoint(path, small_state(3))
        for options in ({}, {"mmap": True}, {"map_location": "cpu"}):
            assert torch.load(path, weights_only=True, **options)["iteration"] == 3
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
            assert archive.comment == b"sha256:" + hashlib.sha256(path.read_bytes()[:-71]).hexdigest().encode()

    @pytest.mark.parametrize("size", [1, 262_142, 262_144, 300_000, 1_000_000])
    def test_sizes_around_the_write_buffer(self, tmp_path, size):
        save_checkpoint(tmp_path / "last.pt", {"x": torch.arange(size), "y": torch.arange(size, dtype=torch.uint8)})
        assert torch.equal(load_checkpoint(tmp_path / "last.pt")["x"], torch.arange(size))

    def test_same_state_gives_same_bytes(self, tmp_path):
        save_checkpoint(tmp_path / "a.pt", small_state(3))
        save_checkpoint(tmp_path / "b.pt", small_state(3))
        assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


Point = collections.namedtuple("Point", "x")


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (np.float64(0.5), "numpy.float64"),
        (np.zeros(3), "numpy.ndarray"),
        (Point(1), "Point"),
        (torch.Size([1]), "torch.Size"),
        (collections.defaultdict(int), "defaultdict"),
        ({1, 2}, "set"),
        (Path("x"), "Path"),
        (torch.float32, "torch.dtype"),
        (lambda: 0, "function"),
        ({True: 1}, "bool"),
        ({("a",): 1}, "tuple"),
    ],
)
def test_other_types_are_refused_with_their_key_path(tmp_path, value, named):
    with pytest.raises(TypeError, match=r"state\['config'\]\['deep'\]\[1\]") as caught:
        save_checkpoint(tmp_path / "last.pt", {"config": {"deep": [0, value]}})
    assert named in str(caught.value)
    assert names_in(tmp_path) == []


def test_omegaconf_nodes_and_loops_are_refused(tmp_path):
    omegaconf = pytest.importorskip("omegaconf")
    with pytest.raises(TypeError, match=r"state\['config'\].*DictConfig"):
        save_checkpoint(tmp_path / "last.pt", {"config": omegaconf.OmegaConf.create({"a": 1})})
    loop: list = []
    loop.append(loop)
    with pytest.raises(TypeError, match="contain itself"):
        save_checkpoint(tmp_path / "last.pt", {"loop": loop})


@pytest.mark.parametrize("key", ["model", "ema"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_weights_are_not_saved(tmp_path, key, bad):
    save_checkpoint(tmp_path / "last.pt", small_state(1))
    weights = {"neck": {"bias": torch.tensor([0.0, bad], dtype=torch.bfloat16)}, "steps": torch.tensor(3)}
    with pytest.raises(FusionDetError, match=rf"1 of 2 numbers of {key}\.neck\.bias are not finite") as caught:
        save_checkpoint(tmp_path / "last.pt", {key: weights})
    assert caught.value.exit_code == 1
    assert load_checkpoint(tmp_path / "last.pt")["iteration"] == 1
    save_checkpoint(tmp_path / "last.pt", {"optimizer": {"best": torch.tensor(float("inf"))}})  # elsewhere it may be meant


class TestHistory:
    @pytest.mark.parametrize("keep", [1, 2, 4])
    def test_keeps_that_many_newest_first(self, tmp_path, keep):
        for number in range(1, 8):
            save_checkpoint(tmp_path / "last.pt", small_state(number), keep=keep)
        names = history(tmp_path / "last.pt", keep)
        assert names_in(tmp_path) == sorted(name.name for name in names)
        assert [load_checkpoint(name)["iteration"] for name in names] == list(range(7, 7 - keep, -1))

    def test_best_has_its_own_names(self, tmp_path):
        for number in (1, 2):
            save_checkpoint(tmp_path / "best.pt", small_state(number))
        save_checkpoint(tmp_path / "last.pt", small_state(9), keep=1)
        assert names_in(tmp_path) == ["best.pt", "best_previous.pt", "last.pt"]
        with pytest.raises(ValueError, match="keep"):
            save_checkpoint(tmp_path / "last.pt", small_state(9), keep=0)
        with pytest.raises(ValueError, match="format_version"):
            save_checkpoint(tmp_path / "last.pt", {"format_version": 7})

    def test_newest_good_falls_back_with_a_warning(self, tmp_path, caplog):
        assert newest_good(tmp_path) is None
        assert newest_good(tmp_path / "no folder") is None
        names = history(tmp_path / "last.pt", 3)
        for number in (1, 2, 3):
            save_checkpoint(names[0], small_state(number), keep=3)
        assert newest_good(tmp_path) == names[0]
        assert not caplog.records
        names[0].write_bytes(names[0].read_bytes()[:-5])
        assert newest_good(tmp_path) == names[1]
        assert "last.pt" in caplog.text
        assert "falling back" in caplog.text
        names[0].unlink()
        names[1].write_bytes(b"")
        assert newest_good(tmp_path) == names[2]
        names[2].write_bytes(b"PK")
        with pytest.raises(CheckpointError, match=r"none of previous\.pt, previous_2\.pt is whole"):
            newest_good(tmp_path)

    def test_a_damaged_last_does_not_push_out_the_good_previous_before_the_new_one_is_there(self, tmp_path, monkeypatch):
        for number in (1, 2):
            save_checkpoint(tmp_path / "last.pt", small_state(number))
        (tmp_path / "last.pt").write_bytes(b"rotten")
        real = os.replace

        def watched(source, target):
            assert newest_good(tmp_path) is not None
            real(source, target)
            assert newest_good(tmp_path) is not None

        monkeypatch.setattr(os, "replace", watched)
        save_checkpoint(tmp_path / "last.pt", small_state(3))
        assert load_checkpoint(tmp_path / "last.pt")["iteration"] == 3
