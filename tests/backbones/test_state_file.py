"""Weights from a file into a backbone: what fits, what is left out, and refusals in one line."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from fusion_det.backbones.fusion_resnet import FusionResNet
from fusion_det.errors import CheckpointError, ConfigError
from fusion_det.fusion.add import Add
from fusion_det.fusion.aff import AFF

KEYS = {
    "block": "basic", "widths": [8, 12], "depths": [1, 2], "stem": "conv7_pool", "stem_width": 8, "first_stride": 4, "join": [1, 2],
    "zero_init": False, "weights": None, "frozen_stages": 0, "frozen_norm": False, "fusion": Add,
}  # fmt: skip


def make(**options):
    return FusionResNet(**(KEYS | options))


@pytest.fixture
def weight_file(tmp_path):
    """A file as torchvision publishes them: with a classifier, without BatchNorm's counters."""
    torch.manual_seed(1)
    state = make().state_dict() | {"fc.weight": torch.randn(10, 12), "fc.bias": torch.randn(10)}
    state = {name: value for name, value in state.items() if "num_batches" not in name}
    torch.save(state, tmp_path / "weights of mine.pth")
    return tmp_path / "weights of mine.pth"


def test_weights_are_loaded_and_operators_keep_their_own(weight_file):
    expected = torch.load(weight_file, weights_only=True)
    torch.manual_seed(2)
    fresh = make(fusion=AFF).state_dict()
    torch.manual_seed(2)
    loaded = make(fusion=AFF, weights=str(weight_file)).state_dict()
    for name, value in loaded.items():
        assert torch.equal(value, expected.get(name, fresh[name])), name
    assert not torch.equal(loaded["conv1.weight"], fresh["conv1.weight"])


def test_operators_in_a_file_are_loaded_where_they_fit_and_left_out_where_there_are_none(tmp_path):
    file = tmp_path / "aff.pth"
    source = make(fusion=AFF)
    torch.save(source.state_dict(), file)
    again = make(fusion=AFF, weights=str(file)).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in source.state_dict().items())
    assert torch.equal(make(weights=str(file)).conv1.weight, source.conv1.weight)
    with pytest.raises(CheckpointError, match=r"differs in layer1.0.join.fold.pairs.0.attention.global_att.1.bias \[4\] instead of \[8\]"):
        make(fusion=partial(AFF, reduction=1), weights=str(file))


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"not weights", {}, "cannot be read as tensors"),
        ([1, 2], {}, "expected a mapping of names to tensors, got list"),
        ({"model": {}}, {}, "expected a mapping of names to tensors, got dict"),
        ({"conv1.weight": torch.zeros(8, 3, 7, 7)}, {}, "the file lacks bn1.bias, bn1.running_mean, bn1.running_var and "),
        (None, {"widths": [8, 16]}, r"differs in layer2.0.bn1.bias \[12\] instead of \[16\], .* and \d+ more"),
        (None, {"depths": [1, 1]}, "has besides layer2.1.bn1.bias"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_line(weight_file, content, options, message):
    if isinstance(content, bytes):
        weight_file.write_bytes(content)
    elif content is not None:
        torch.save(content, weight_file)
    with pytest.raises(CheckpointError, match=message) as refused:
        make(weights=str(weight_file), **options)
    assert refused.value.exit_code == 3
    assert len(refused.value.lines) == 1
    assert str(refused.value).startswith(f"backbone.weights={weight_file}: ")


def test_a_file_that_is_not_there_is_a_config_error():
    with pytest.raises(ConfigError, match=r"backbone.weights: no such file 'nowhere.pth' -> .*backbone.weights=null"):
        make(weights="nowhere.pth")


def test_code_in_a_file_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"conv1.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="cannot be read as tensors"):
        make(weights=str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()
