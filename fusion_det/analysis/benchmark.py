"""tools/benchmark.py: what one detector costs, counted and measured."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from fusion_det.analysis.cost import Cost, cost_of
from fusion_det.analysis.cost_table import cost_lines, measured_lines
from fusion_det.analysis.peak_memory import MemoryMeter
from fusion_det.analysis.speed import NETWORK, WHOLE, Scene, Training, prediction_memory, prediction_times, training_speed
from fusion_det.analysis.subject import Subject, choose_subject
from fusion_det.analysis.timing import Clock, Times
from fusion_det.config.environment import describe_environment
from fusion_det.config.files import write_json
from fusion_det.detector import Detector
from fusion_det.engine.device import choose_device, choose_precision
from fusion_det.engine.memory import keep_freed_memory
from fusion_det.errors import ConfigError, FusionDetError
from fusion_det.fast.prepare import make_fast
from fusion_det.rehearsal import describe

if TYPE_CHECKING:
    from fusion_det.config.benchmark_schema import BenchmarkConfig
    from fusion_det.config.cli import Folders

logger = logging.getLogger(__name__)
MODEL = ("backbone", "neck", "fusion", "block", "head", "late_fusion")


@dataclass(frozen=True)
class Measured:
    """What was timed; keys are batch sizes."""

    latency: dict[int, dict[str, Times]]
    memory: dict[int, int | None]
    """Bytes at the peak of a prediction with late fusion."""
    training: Training | None
    notes: list[str]
    """What the numbers hold for, for people."""

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for files."""
        latency = [
            {
                "batch_size": batch,
                "network": times[NETWORK].as_dict(),
                "with_late_fusion": times[WHOLE].as_dict(),
                "peak_memory_bytes": self.memory[batch],
            }
            for batch, times in self.latency.items()
        ]
        training = self.training and {
            "batch_size": self.training.batch_size,
            "images_per_second": self.training.images_per_second,
            "step": self.training.step.as_dict(),
            "peak_memory_bytes": self.training.memory,
        }
        return {"latency": latency, "training": training, "notes": self.notes}


def benchmark(settings: BenchmarkConfig, folders: Folders) -> None:
    """Log one table of what a detector costs, and write it as JSON. Reads neither data nor pre-trained weights."""
    subject = choose_subject(settings, folders)
    cost = cost_of(subject.config, subject.num_classes, subject.size)
    logger.info("%s, %d x %d pixels, %d classes", subject.name, *subject.size, subject.num_classes)
    logger.info("%s", "\n".join(cost_lines(cost)))
    measured = None
    if settings.measure:
        with _told():
            measured = measure(subject, settings)
        logger.info("\n%s", "\n".join(measured_lines(measured)))
    _write(settings, subject, cost, measured)


def measure(subject: Subject, settings: BenchmarkConfig) -> Measured:
    """Time ``subject`` at batch 1 and at the larger batch, and its training steps. Memory is told of first calls."""
    trainer, device = subject.config["trainer"], choose_device(settings.device)
    precision = choose_precision(settings.precision or trainer["precision"], device)
    if threads := settings.threads or trainer["threads"]:
        torch.set_num_threads(threads)
    detector = subject.build(device).eval()
    if settings.fast:
        make_fast(detector, subject.size)
    scene = Scene(subject.size, precision, subject.num_classes, settings.objects, settings.candidates)
    clock = Clock(device, settings.warmup, settings.rounds, settings.seconds)
    meter = MemoryMeter(device)
    batch_size = settings.batch_size or subject.config["loader"]["batch_size"]
    batches = sorted({1, batch_size})
    memory = {batch: prediction_memory(detector, scene, batch, meter) for batch in batches}
    if device.type == "cpu":
        keep_freed_memory()  # as training does
    latency = {batch: prediction_times(detector, scene, batch, clock) for batch in batches}
    notes = _notes(settings, detector, device, precision, meter)
    training = None
    if settings.training:
        if settings.fast:
            del detector  # one at a time in memory; this one cannot learn
            detector = subject.build(device)
        training = training_speed(detector, scene, batch_size, subject.config, clock, meter)
    return Measured(latency, memory, training, notes)


def _notes(settings: BenchmarkConfig, detector: Detector, device: torch.device, precision: str, meter: MemoryMeter) -> list[str]:
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"
    layout = "channels_last" if detector.memory_format == torch.channels_last else "NCHW"
    fed = "the head's own candidates" if settings.candidates is None else f"{settings.candidates:,} made-up candidates per picture"
    late_fusion = f"late fusion ({type(detector.late_fusion).__name__}) of {fed}"
    notes = [
        f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else cpu}, {precision}, {layout}, torch {torch.__version__}; "
        f"{late_fusion}; pictures lie on the device, results stay there; the device is waited for. Memory: {meter.meaning}."
    ]
    if settings.fast:
        made = "BatchNorm folded, weights in oneDNN's order" if device.type == "cpu" else "BatchNorm folded"
        notes.append(f"Prediction: {made} (fast=true); counted parameters and training steps are those of the detector as it is trained.")
    if settings.training:
        notes.append("Training step: forward, losses, backward, clipping and optimizer; no loading of data, no averaged weights.")
    return notes


@contextmanager
def _told() -> Iterator[None]:
    """Turn what a detector raises of pictures that it cannot take, or for want of memory, into one line."""
    try:
        yield
    except FusionDetError:
        raise
    except torch.OutOfMemoryError as error:
        raise FusionDetError("out of GPU memory", where="batch_size", mend="use a smaller batch_size= or image_size=") from error
    except (ValueError, RuntimeError, LookupError, ArithmeticError) as error:
        raise ConfigError(describe(error), where="image_size", mend="change image_size=, batch_size= or the model") from error


def _write(settings: BenchmarkConfig, subject: Subject, cost: Cost, measured: Measured | None) -> None:
    content = {
        "name": subject.name,
        "overrides": settings.overrides,
        "num_classes": subject.num_classes,
        "model": {key: subject.config[key] for key in MODEL},
        "cost": cost.as_dict(),
        "measured": measured and measured.as_dict(),
        "environment": describe_environment(subject.config["seed"]),
    }
    try:
        subject.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(subject.output, content)
    except OSError as error:
        raise FusionDetError(
            f"cannot write: {error.strerror}", where=str(subject.output), mend="choose another file with output="
        ) from error
    logger.info("written: %s", subject.output)
