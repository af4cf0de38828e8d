"""The closed part of the configs: every key of a tool with its type, range and default.

``configs/*.yaml`` repeat the defaults so that ``--cfg job`` shows them; a test holds the two together. Components (backbone, neck, ...)
stay plain mappings here, because their keys belong to the class that their ``_target_`` names.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Strict, model_validator

from fusion_det.config.describe import Meaning
from fusion_det.config.types import Momentum, UnitInterval

Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$"), Meaning("one of auto, cpu, cuda, cuda:N")]
RunName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,119}$"),
    Meaning("a folder name: a letter or digit, then letters, digits, . _ + -"),
]
Workers = NonNegativeInt | Literal["auto"]
Part = Literal["backbone", "neck", "head"]
Metric = Literal["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
Expectations = Annotated[
    dict[Metric, Annotated[tuple[UnitInterval, NonNegativeFloat], Strict(False)]],
    Meaning(f"metric: [value, tolerance], value from 0 to 1, metric one of {', '.join(get_args(Metric))}"),
]
Node = Annotated[dict[str, Any], Meaning("a node with _target_")]
COMPONENTS = ("backbone", "fusion", "block", "neck", "head", "late_fusion", "data", "augment", "optimizer", "schedule")
"""The keys of :class:`TrainConfig` that hold component nodes, in the order of the config groups."""


class Settings(BaseModel):
    """Base: unknown keys, lenient conversions, NaN and later changes are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    def plain(self) -> dict[str, Any]:
        """The settings as plain containers, as they go into files and checkpoints."""
        return self.model_dump(mode="json")


class TrainerSettings(Settings):
    """How the model is trained."""

    epochs: PositiveInt = 12
    """Passes over the training set."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the device is made for it, else fp32."""
    channels_last: bool = True
    """NHWC memory format, faster on most devices."""
    compile: bool = False
    """torch.compile; costs a minute at the start, pays on long runs."""
    accumulate: PositiveInt = 1
    """Batches per optimizer step."""
    clip_grad_norm: PositiveFloat | None = 10.0
    """Largest gradient norm; null: no clipping."""
    ema_decay: Momentum = 0.999
    """Decay of the averaged weights; 0: no average is kept."""
    log_every: PositiveInt = 10
    """Optimizer steps between two log lines."""
    eval_every: NonNegativeInt = 1
    """Epochs between two evaluations; the last epoch is always evaluated; 0: only the last."""
    checkpoint_every: PositiveInt = 1
    """Epochs between two checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    """Checkpoints kept for a fall-back."""
    deterministic: bool = False
    """Bit-equal repeats on the same machine, somewhat slower."""
    pictures: NonNegativeInt = 4
    """Validation pictures drawn per evaluation."""
    threads: PositiveInt | None = None
    """CPU threads of torch; null: torch decides."""


class LoaderSettings(Settings):
    """How pictures reach the model."""

    batch_size: PositiveInt = 8
    """Pictures per device and training batch."""
    eval_batch_size: PositiveInt = 16
    """Pictures per device and evaluation batch."""
    workers: Workers = "auto"
    """Loader processes; auto: as many as cores, at most 8; 0: none."""


class EvalSettings(Settings):
    """How the model is measured."""

    backend: Literal["array", "pycocotools"] = "array"
    """What computes the COCO numbers: our array evaluator, or pycocotools, the reference; the numbers are the same."""
    max_detections: PositiveInt = 100
    """Detections per picture that count."""
    expect: Expectations = {}
    """Metric -> [value, tolerance]; a result outside makes the tool exit with 4."""
    use_ema: bool = True
    """Evaluate the averaged weights, if there are any."""


class LoggerSettings(Settings):
    """What a run writes besides its files."""

    tensorboard: bool = True
    """Write TensorBoard events."""
    progress: bool | Literal["auto"] = "auto"
    """Progress bar; auto: on a terminal only."""


class TrainConfig(Settings):
    """tools/train.py."""

    seed: NonNegativeInt = 0
    """Seed of everything random."""
    name: RunName
    """Folder under runs/; null in the YAML: made of the chosen options."""
    run_dir: str | None = None
    """Explicit run folder; null: runs/<name>/<time>-<id>."""
    resume: str | None = None
    """auto: go on with the newest unfinished run of this name; or a run folder or checkpoint."""
    init_from: str | None = None
    """Checkpoint whose weights to start from, or torchvision:MODEL, torchvision:MODEL:FILE (docs/parity.md)."""
    init_parts: Annotated[list[Part], Field(min_length=1)] = ["backbone", "neck", "head"]
    """Parts of the detector that start from init_from; the others start anew."""
    device: Device = "auto"
    """auto, cpu, cuda or cuda:N."""
    trainer: TrainerSettings = TrainerSettings()
    loader: LoaderSettings = LoaderSettings()
    eval: EvalSettings = EvalSettings()
    logger: LoggerSettings = LoggerSettings()
    backbone: Node
    fusion: Node | None = None
    block: Node | None = None
    neck: Node
    head: Node
    late_fusion: Node
    data: Node
    augment: Node
    optimizer: Node
    schedule: Node


class ViewSettings(Settings):
    """Test-time augmentation: ways to look at a picture; each is a source of late fusion."""

    scales: Annotated[list[PositiveFloat], Field(min_length=1)] = [1.0]
    """Picture sizes relative to the checkpoint's, rounded to multiples of 32; resized from the original picture."""
    flip: bool = False
    """Look at the mirrored picture too, at every scale."""


Checkpoints = Annotated[str | Annotated[list[str], Field(min_length=1)], Meaning("a path, or a list of paths")]
Weights = Annotated[list[PositiveFloat], Field(min_length=1)]


class EvaluateConfig(Settings):
    """tools/evaluate.py."""

    checkpoint: Checkpoints | None = None
    """Checkpoint to measure, or several to bring together; they carry their own config."""
    gt: str | None = None
    """COCO annotation file to measure ``dt`` against, without a checkpoint or pictures."""
    dt: str | None = None
    """COCO results file of any framework."""
    weights: Weights | None = None
    """One number per checkpoint; null: all count the same."""
    late_fusion: Node | None = None
    """Another late fusion; null: the (first) checkpoint's own."""
    tta: ViewSettings = ViewSettings()
    """Test-time augmentation."""
    data: Node | None = None
    """Another data set; null: the checkpoint's own."""
    split: str = "val"
    """Split of the data set."""
    annotations: str | None = None
    """COCO annotation file in place of the data set's."""
    images: str | None = None
    """Folder of the pictures of ``annotations``."""
    output: str | None = None
    """Folder of results.json and predictions.json; null: beside the checkpoint, or beside ``dt``."""
    backend: Literal["array", "pycocotools"] = "array"
    """What computes the COCO numbers; the numbers are the same."""
    max_detections: PositiveInt | None = None
    """Detections per picture and class that count; null: as the checkpoint says, or 100."""
    curves: bool = False
    """Also write curves.csv: precision over recall of every class, size and IoU threshold."""
    errors: bool = False
    """Also log, and write into results.json, why AP is what it is: error types, confusion, calibration, thresholds, levels."""
    levels: Literal["neck", "backbone"] | None = None
    """Also replace each pyramid level that this part gives, and write what is left of AP into levels.json; null: off."""
    device: Device = "auto"
    """auto, cpu, cuda or cuda:N."""
    batch_size: PositiveInt = 16
    """Pictures per batch."""
    workers: Workers = "auto"
    """Loader processes."""
    use_ema: bool = True
    """Use the averaged weights, if there are any."""
    fast: bool = False
    """Fold BatchNorm and reorder weights before predicting."""
    expect: Expectations = {}
    """Metric -> [value, tolerance]; a result outside makes the tool exit with 4."""

    @model_validator(mode="after")
    def _one_thing_to_measure(self) -> Self:
        if self.checkpoint is None and self.gt is None and self.dt is None:
            raise ValueError("nothing to measure -> add checkpoint=FILE, or gt=ANNOTATIONS.json dt=PREDICTIONS.json")
        if (self.gt is None) != (self.dt is None):
            raise ValueError(
                f"{'gt' if self.gt is None else 'dt'} is missing -> gt=ANNOTATIONS.json and dt=PREDICTIONS.json belong together"
            )
        others = [
            key
            for key in ("checkpoint", "weights", "late_fusion", "data", "annotations", "images", "levels")
            if getattr(self, key) is not None
        ]
        if self.gt is not None and others:
            raise ValueError(f"{', '.join(others)} and gt=, dt= at once -> leave one of them out; gt= is the annotation file of dt=")
        if self.levels is not None and (self.tta != ViewSettings() or (isinstance(self.checkpoint, list) and len(self.checkpoint) > 1)):
            raise ValueError("levels= replaces the levels of one detector -> give one checkpoint, and no tta")
        return self


class PredictConfig(Settings):
    """tools/predict.py."""

    checkpoint: Checkpoints
    """Checkpoint to use, or several to bring together; they carry their own config."""
    weights: Weights | None = None
    """One number per checkpoint; null: all count the same."""
    late_fusion: Node | None = None
    """Another late fusion; null: the (first) checkpoint's own."""
    tta: ViewSettings = ViewSettings()
    """Test-time augmentation."""
    source: str
    """A picture or a folder of pictures."""
    output: str = "predictions"
    """Folder of predictions.json and the drawn pictures."""
    score_threshold: UnitInterval = 0.3
    """Detections below it are left out."""
    device: Device = "auto"
    """auto, cpu, cuda or cuda:N."""
    batch_size: PositiveInt = 8
    """Pictures per batch."""
    draw: bool = True
    """Draw the boxes into copies of the pictures."""
    use_ema: bool = True
    """Use the averaged weights, if there are any."""
    fast: bool = True
    """Fold BatchNorm and reorder weights before predicting: the same boxes up to rounding."""


class EnsembleConfig(Settings):
    """tools/ensemble.py."""

    predictions: Annotated[str | Annotated[list[str], Field(min_length=1)], Meaning("a path, or a list of paths")]
    """COCO results files of the same pictures, of any framework."""
    weights: Weights | None = None
    """One number per file; null: all count the same."""
    late_fusion: Node
    annotations: str | None = None
    """COCO annotation file to measure on; null: fuse only."""
    output: str = "ensemble"
    """Folder of predictions.json (and results.json)."""
    score_threshold: UnitInterval = 0.0
    """Detections of the files below it are left out."""
    device: Device = "cpu"
    """auto, cpu, cuda or cuda:N."""
    expect: Expectations = {}
    """Metric -> [value, tolerance]; a result outside makes the tool exit with 4."""
