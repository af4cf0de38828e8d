"""The detector that tools/benchmark.py is asked to measure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from fusion_det.build import build_detector
from fusion_det.config.cli import load_settings
from fusion_det.config.tools import get_tool
from fusion_det.data.buckets import buckets_of
from fusion_det.detector import Detector
from fusion_det.engine.checkpoint import load_checkpoint
from fusion_det.errors import ConfigError, FusionDetError
from fusion_det.inference import LoadedDetector
from fusion_det.rehearsal import Size

if TYPE_CHECKING:
    from fusion_det.config.benchmark_schema import BenchmarkConfig
    from fusion_det.config.cli import Folders

RESULTS = Path("runs/benchmark")


class Subject(NamedTuple):
    """The detector to be measured."""

    name: str
    config: Mapping[str, Any]
    """That of a training run."""
    num_classes: int
    size: Size
    """Height and width of the pictures."""
    state: dict[str, Any] | None
    """The checkpoint's."""
    output: Path

    def build(self, device: torch.device) -> Detector:
        """With the checkpoint's weights or random ones, in the memory format it is trained in."""
        if self.state is not None:
            return LoadedDetector(self.state, device=device, use_ema=False, where=self.name).model
        detector = build_detector(self.config, self.num_classes, seed=self.config["seed"], load_pretrained=False).to(device)
        return detector.channels_last() if self.config["trainer"]["channels_last"] else detector


def choose_subject(settings: BenchmarkConfig, folders: Folders) -> Subject:
    """The checkpoint of ``settings``, or the model that its words of tools/train.py describe."""
    return _from_checkpoint(settings) if settings.checkpoint is not None else _from_configs(settings, folders)


def _from_configs(settings: BenchmarkConfig, folders: Folders) -> Subject:
    config = _training_config(settings.overrides, folders)
    size = _size(settings, config, config["data"].get("image_size"))
    output = Path(settings.output) if settings.output else RESULTS / f"{config['name']}.json"
    return Subject(config["name"], config, settings.num_classes, size, None, output)


def _training_config(words: list[str], folders: Folders) -> dict[str, Any]:
    """The config of the run that ``words`` describe; a data set needs no folder, as it is not read."""
    try:
        settings = load_settings(get_tool("train"), words, folders.config_dir, folders.config_dirs)
    except FusionDetError as error:
        if not error.where.startswith("data.root "):
            raise
        settings = load_settings(get_tool("train"), [*words, "data.root=."], folders.config_dir, folders.config_dirs)
    plain: dict[str, Any] = settings.plain()
    return plain


def _from_checkpoint(settings: BenchmarkConfig) -> Subject:
    path = Path(str(settings.checkpoint))
    if settings.overrides:
        fault = "the checkpoint carries its own model, which these words would not change"
        raise ConfigError(fault, where=" ".join(settings.overrides), mend="leave them out, or leave checkpoint= out")
    state = load_checkpoint(path)
    output = Path(settings.output) if settings.output else path.with_name("benchmark.json")
    return Subject(
        str(path), state["config"], len(state["class_names"]), _size(settings, state["config"], state["image_size"]), state, output
    )


def _size(settings: BenchmarkConfig, config: Mapping[str, Any], own: Any) -> Size:
    given = settings.image_size
    if isinstance(given, tuple):
        return given
    if given is not None:
        return given, given
    if not isinstance(own, int):
        raise ConfigError("the data set has none", where="image_size", mend="add image_size=320")
    height, width = buckets_of(config["data"], own)[0]
    return height, width
