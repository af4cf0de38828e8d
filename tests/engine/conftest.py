"""A complete, very small training run that several files start, stop and look at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests_engine_settings import SMALL

from fusion_det.config.cli import load_settings
from fusion_det.config.tools import default_config_dir, get_tool


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_settings(coco_root: Path, tmp_path: Path):
    """Settings of the small run with further overrides; its folder is ``tmp_path / name``."""

    def make(name: str, *overrides: str):
        words = [*SMALL, f"data.root={coco_root}", f"run_dir={tmp_path / name}", *overrides]
        return load_settings(get_tool("train"), words, default_config_dir())

    return make
