"""tools/benchmark.py: one table, one file, bad input in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tiny_checkpoint import tiny_state

from fusion_det.config.benchmark_schema import BenchmarkConfig
from fusion_det.config.cli import main
from fusion_det.engine.checkpoint import save_checkpoint

REPO = Path(__file__).resolve().parents[2]
TINY = [
    "neck.channels=8", "head.num_convs=1", "backbone.stem_width=8", "backbone.widths=[8,8,8,8]", "backbone.depths=[1,1,1,1]",
    "image_size=64", "num_classes=3", "batch_size=2",
]  # fmt: skip
QUICK = ["device=cpu", "warmup=1", "rounds=2", "threads=1", "precision=fp32"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_yaml_repeats_the_defaults():
    written = yaml.safe_load((REPO / "configs" / "benchmark.yaml").read_text())
    del written["defaults"]
    assert BenchmarkConfig.model_validate(written) == BenchmarkConfig()
    assert list(written) == list(BenchmarkConfig.model_fields)


def test_one_table_and_one_file(caplog):
    with caplog.at_level("INFO", "fusion_det"):
        assert main("benchmark", [*TINY, *QUICK, "neck=bifpn", "seed=4", "output=out/b.json"]) == 0
    written = json.loads(Path("out/b.json").read_text())
    assert "neck=bifpn" in written["overrides"]
    assert "image_size=64" not in written["overrides"]
    assert "bifpn" in written["name"]
    assert written["environment"]["seed"] == 4
    parts = written["cost"]["parts"]
    assert list(parts) == ["backbone", "neck", "head"]
    assert written["cost"]["total"]["flops"] == 2 * sum(part["macs"] for part in parts.values()) > 0
    measured = written["measured"]
    assert [row["batch_size"] for row in measured["latency"]] == [1, 2]
    for row in measured["latency"]:
        assert 0 < row["network"]["fastest_ms"] <= row["network"]["median_ms"] <= row["network"]["p95_ms"]
        assert row["with_late_fusion"]["rounds"] == 2
    assert measured["training"]["images_per_second"] == pytest.approx(2000 / measured["training"]["step"]["median_ms"])
    for words in (
        "64 x 64 pixels, 3 classes",
        "1 MAC = 2 FLOP",
        "Not counted",
        "batch 2, training step",
        "1 thread(s), fp32",
        "written: out/b.json",
    ):
        assert words in caplog.text
    assert f"{written['cost']['total']['parameters']:,}" in caplog.text


def test_counting_needs_no_measuring(caplog, monkeypatch):
    monkeypatch.setattr("fusion_det.analysis.benchmark.measure", None)
    with caplog.at_level("INFO", "fusion_det"):
        words = [word for word in TINY if not word.startswith("head.")]
        words += ["measure=false", "head=faster_rcnn_small", "image_size=[64,96]", "name=mine", "data=coco"]
        assert main("benchmark", words) == 0
    written = json.loads(Path("runs/benchmark/mine.json").read_text())
    assert written["measured"] is None
    assert (written["cost"]["height"], written["cost"]["width"]) == (64, 96)
    assert f"counted at {written['cost']['proposals']:,} proposals" in caplog.text


def test_a_checkpoint_brings_its_own_model_classes_and_size(coco_root, tmp_path, caplog):
    save_checkpoint(tmp_path / "last.pt", tiny_state(coco_root, 0), keep=1)
    with caplog.at_level("INFO", "fusion_det"):
        assert main("benchmark", ["checkpoint=last.pt", *QUICK, "batch_size=1", "training=false", "candidates=null"]) == 0
    written = json.loads(Path("benchmark.json").read_text())
    assert (written["num_classes"], written["cost"]["height"]) == (3, 64)
    assert len(written["measured"]["latency"]) == 1
    assert written["measured"]["training"] is None
    assert "the head's own candidates" in caplog.text


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["nek=fpn"], 2, "nek"),
        (["neck=fpm"], 2, "no such option 'fpm'"),
        (["image_size=0"], 2, "image_size: got 0, expected a positive whole number, or [height, width]"),
        (["image_sise=64"], 2, "image_sise"),
        (["neck.channels=0"], 2, "neck.channels"),
        (["checkpoint=nowhere.pt"], 2, "no such file or folder: nowhere.pt"),
        (["checkpoint=damaged.pt"], 3, "damaged.pt"),
        (["checkpoint=damaged.pt", "neck=bifpn", "seed=1"], 2, "neck=bifpn seed=1: the checkpoint carries its own model"),
        (["device=cuda:7"], 2, "cuda:7 was asked for"),
        (["neck=attention", "neck.channels=12"], 2, "heads=8"),
        (["data=coco", "data.image_size=50", "data.root=."], 2, "image_size 50 is not a multiple of 32"),
        ([*TINY, "measure=false", "output=damaged.pt/b.json"], 1, "cannot write"),
        ([*TINY, *QUICK, "training=false", "neck=ssd", "neck.extra.unpadded=4"], 2, "larger pictures"),
    ],
)
def test_bad_input_is_one_line(words, code, line, capsys):
    Path("damaged.pt").write_bytes(b"PK nothing")
    assert main("benchmark", words) == code
    errors = capsys.readouterr().err.splitlines()
    assert len([e for e in errors if e.startswith("error: ")]) == len(errors) >= 1
    assert line in errors[0]
    assert "Traceback" not in "".join(errors)
