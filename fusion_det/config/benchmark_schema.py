"""The keys of tools/benchmark.py; ``configs/benchmark.yaml`` repeats the defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, Strict

from fusion_det.config.describe import Meaning
from fusion_det.config.schema import Device, Settings

PictureSize = Annotated[
    PositiveInt | Annotated[tuple[PositiveInt, PositiveInt], Strict(False)], Meaning("a positive whole number, or [height, width]")
]


class BenchmarkConfig(Settings):
    """tools/benchmark.py."""

    checkpoint: str | None = None
    """Checkpoint to measure in place of a model out of configs."""
    overrides: list[str] = Field(default=[])
    """Words of tools/train.py that were typed: neck=bifpn, neck.channels=96, experiment=..."""
    image_size: PictureSize | None = None
    """Side of the square pictures, or [height, width]; null: data.image_size, or the checkpoint's."""
    num_classes: PositiveInt = 80
    """Classes of a model out of configs."""
    batch_size: PositiveInt | None = None
    """Pictures of the larger batch and of a training step; null: loader.batch_size."""
    precision: Literal["auto", "fp32", "bf16"] | None = None
    """null: trainer.precision."""
    device: Device = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: PositiveInt | None = None
    """CPU threads of torch; null: trainer.threads."""
    measure: bool = True
    """false: count only, which needs neither memory nor time."""
    training: bool = True
    """Measure training steps too."""
    fast: bool = True
    """Predict as tools/predict.py does: BatchNorm folded, weights reordered. Training steps and counts are not touched."""
    candidates: PositiveInt | None = 1000
    """Made-up candidates per picture that late fusion gets; null: what the head gives."""
    objects: PositiveInt = 7
    """Objects per picture."""
    warmup: NonNegativeInt = 3
    """Calls before the timed ones."""
    rounds: PositiveInt = 30
    """Timed calls."""
    seconds: NonNegativeFloat = 10.0
    """A measurement ends after this time, once it has 5 rounds."""
    output: str | None = None
    """JSON file; null: runs/benchmark/<name>.json, or benchmark.json beside the checkpoint."""
