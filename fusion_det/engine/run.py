"""One training run: settings in, a run folder full of results out."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fusion_det.analysis.anchor_fit import log_anchor_fit
from fusion_det.build import build_detector, dry_run
from fusion_det.config.files import write_atomic, write_json
from fusion_det.config.instantiate import build
from fusion_det.config.run_folder import RunFolder, make_run_folder
from fusion_det.data.dataset import DetectionDataset
from fusion_det.data.loader import Batches, eval_loader, train_loader
from fusion_det.data.order import BatchOrder
from fusion_det.data.sources import DataSource
from fusion_det.engine.best import Best, keep_best
from fusion_det.engine.checkpoint import load_checkpoint, newest_good, save_checkpoint
from fusion_det.engine.device import choose_device, choose_precision, set_determinism
from fusion_det.engine.fusion_log import FusionLog
from fusion_det.engine.log_writers import RunLog
from fusion_det.engine.memory import keep_freed_memory
from fusion_det.engine.pictures import training_batch, validation_samples
from fusion_det.engine.progress import Progress
from fusion_det.engine.resume import check_same_run, check_source, initialise_from
from fusion_det.engine.signals import Interrupted, StopRequest
from fusion_det.engine.start_record import write_start
from fusion_det.engine.trainer import Trainer
from fusion_det.evaluation.coco_metrics import BoxMetrics
from fusion_det.evaluation.evaluator import check_expectations, collect_predictions, score_predictions
from fusion_det.evaluation.predictions import write_predictions

if TYPE_CHECKING:
    from fusion_det.config.schema import TrainConfig

logger = logging.getLogger(__name__)


def train(settings: TrainConfig, overrides: Sequence[str]) -> None:
    """Train, evaluate and save as ``settings`` say. Everything lands in one run folder, which is named first and last.

    Raises the errors of :mod:`fusion_det.errors`; ``Interrupted`` after a stop by signal, with the state saved.
    """
    device = choose_device(settings.device)
    if settings.trainer.threads is not None:
        torch.set_num_threads(settings.trainer.threads)
    if device.type == "cpu":
        keep_freed_memory()
    set_determinism(settings.trainer.deterministic)
    if settings.init_from is not None:
        check_source(settings.init_from)
    rehearsed = dry_run(settings.plain())
    folder = make_run_folder(settings, overrides)
    try:
        logger.info("run folder: %s", folder.path)
        if folder.finished:
            logger.info("this run is finished; its numbers are in %s", folder.path / "results.json")
            return
        logger.info("%s", rehearsed.text)
        if rehearsed.picture is not None:
            write_atomic(folder.path / "neck.svg", rehearsed.picture.encode())
        Run(settings, folder, device).execute()
    finally:
        folder.release()


class Run:
    """The parts of one run and what happens at its milestones."""

    def __init__(self, settings: TrainConfig, folder: RunFolder, device: torch.device) -> None:
        self.settings, self.folder, self.device = settings, folder.path, device
        self.precision = choose_precision(settings.trainer.precision, device)
        self.started = time.perf_counter()
        self.source: DataSource = build(settings.data)
        for index in (self.source.train, self.source.val):
            for line in index.ledger.lines():
                logger.info("%s: %s", index.name, line)
        self._load_data()
        self._make_trainer(anew=folder.checkpoint is None)
        self.best, self.evaluated = Best(), 0
        self.metrics: BoxMetrics | None = None
        resumed = self._resume(folder.checkpoint)
        self.log = RunLog(self.folder, tensorboard=settings.logger.tensorboard, resume_step=self.trainer.step if resumed else None)
        self.fusion = FusionLog(self.source.val, pictures=settings.trainer.pictures)
        self.stop = StopRequest()

    def _load_data(self) -> None:
        loader, buckets = self.settings.loader, self.source.buckets
        self.dataset = DetectionDataset(self.source.train, buckets, augment=build(self.settings.augment), seed=self.settings.seed)
        self.order = BatchOrder(self.dataset.bucket_of_image, batch_size=loader.batch_size, seed=self.settings.seed)
        self.train_batches = train_loader(self.dataset, self.order, workers=loader.workers)
        validation = DetectionDataset(self.source.val, buckets)
        self.val_batches = eval_loader(validation, batch_size=loader.eval_batch_size, workers=loader.workers)

    def _make_trainer(self, *, anew: bool) -> None:
        settings, options = self.settings, self.settings.trainer
        model = build_detector(settings.plain(), len(self.source.train.categories), seed=settings.seed)
        if settings.init_from is not None and anew:
            initialise_from(settings.init_from, model, parts=settings.init_parts, class_names=self.source.train.class_names)
        model.to(self.device)
        if options.channels_last:
            model.channels_last()
        torch.manual_seed(settings.seed)
        optimizer = build(settings.optimizer, model)
        steps = options.epochs * -(-self.order.batches_per_epoch // options.accumulate)
        self.trainer = Trainer(
            model,
            optimizer,
            build(settings.schedule, optimizer, steps),
            self._batches,
            num_batches=self.order.batches_per_epoch,
            epochs=options.epochs,
            device=self.device,
            precision=self.precision,
            accumulate=options.accumulate,
            clip_grad_norm=options.clip_grad_norm,
            ema_decay=options.ema_decay,
            log_every=options.log_every,
            compile=options.compile,
        )

    def _batches(self, epoch: int, batch: int) -> Batches:
        self.order.start_at(epoch=epoch, batch=batch)
        return self.train_batches

    def _resume(self, checkpoint: Path | None) -> bool:
        if checkpoint is None:
            return False
        named = checkpoint if self.settings.resume != "auto" and checkpoint.name != "last.pt" else newest_good(checkpoint.parent)
        state = load_checkpoint(named or checkpoint)
        check_same_run(state, self.settings.plain(), self.source.train.class_names, where=str(named))
        self.trainer.load_state_dict(state)
        self.best, self.evaluated = Best(**state["best"]), state["evaluated"]
        logger.info("going on from %s: epoch %d, batch %d, step %d", named, self.trainer.epoch, self.trainer.batch, self.trainer.step)
        return True

    def execute(self) -> None:
        """Train to the end, or to the next signal."""
        trainer, model = self.trainer, self.trainer.model
        logger.info(
            "%d training and %d validation pictures, %d classes; %.2f M parameters; %d steps on %s in %s",
            len(self.source.train), len(self.source.val), len(self.source.train.categories),
            sum(p.numel() for p in model.parameters()) / 1e6, trainer.total_steps, self.device, self.precision,
        )  # fmt: skip
        if trainer.step == 0:
            log_anchor_fit(model.head, self.source.train, self.source.buckets, self.dataset.bucket_of_image)
            self._record_start()
        steps_per_epoch = trainer.total_steps // trainer.epochs
        bar = None if self.settings.logger.progress == "auto" else self.settings.logger.progress
        self.progress = Progress(epochs=trainer.epochs, steps_per_epoch=steps_per_epoch, first_step=trainer.step, bar=bar)
        with self.stop, self.progress:
            self._catch_up()
            finished = trainer.fit(report=self._report, end_of_epoch=self._end_of_epoch, stop=self.stop, on_batch=self.progress.advance)
            if not finished:
                self._save()
        self.log.close()
        if self.stop.number is not None and not finished:
            raise Interrupted(self.stop.number, where=str(self.folder), mend=f"go on with resume={self.folder}")
        self._finish()

    def _report(self, trainer: Trainer, means: dict[str, float]) -> None:
        speed = {"perf/images_per_s": self.progress.report(means), "perf/data_time": trainer.data_seconds}
        trainer.data_seconds = 0.0
        if self.device.type == "cuda":
            speed["perf/mem_gb"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        rates = {group["name"].split("/")[0]: group["lr"] for group in trainer.optimizer.param_groups}
        self.log.scalars(
            trainer.step,
            {f"train/{name}": value for name, value in means.items()}
            | {"train/lr": rates.get("rest", next(iter(rates.values()))), "train/lr_backbone": rates.get("backbone", 0.0)}
            | speed,
        )

    def _end_of_epoch(self, trainer: Trainer) -> None:
        if trainer.epoch % self.settings.trainer.checkpoint_every == 0 or trainer.epoch == trainer.epochs:
            self._save()
        self._catch_up()

    def _catch_up(self) -> None:
        """Evaluate if the epoch just finished is due and has not been evaluated (a resumed run may have stopped right before)."""
        epoch, every = self.trainer.epoch, self.settings.trainer.eval_every
        due = epoch > self.evaluated and self.trainer.batch == 0 and (epoch == self.trainer.epochs or (every and epoch % every == 0))
        if due:
            self._evaluate()

    def _evaluate(self) -> None:
        start, model = time.perf_counter(), self._model()
        index = self.source.val
        with self.fusion.watching(model) as watch:
            results = collect_predictions(
                model, self.val_batches, category_ids=list(index.category_ids), device=self.device, precision=self.precision, on_batch=watch
            )
        metrics = score_predictions(index, results, max_detections=self.settings.eval.max_detections, backend=self.settings.eval.backend)
        self.metrics, self.evaluated = metrics, self.trainer.epoch
        write_predictions(self.folder / "predictions.json", results)
        seconds = time.perf_counter() - start
        self.progress.skip_time(seconds)
        self.log.scalars(self.trainer.step, metrics.scalars("val") | self.fusion.scalars() | {"perf/eval_s": seconds})
        for name, picture in chain(validation_samples(index, results, count=self.settings.trainer.pictures), self.fusion.pictures()):
            self.log.picture(name, self.trainer.step, picture)
        better = self.best.is_beaten_by(metrics.summary)
        if better:
            self.best = keep_best(self.folder, self.folder / "predictions.json", self.evaluated, metrics.summary)
        self._write_results(metrics, finished=False)
        self._save(also_best=better)
        summary = "  ".join(f"{k} {100 * v:.1f}" for k, v in metrics.summary.items() if v is not None and k in ("AP", "AP50", "AP75"))
        logger.info("epoch %d/%d: %s (%.1f s)", self.evaluated, self.trainer.epochs, summary, seconds)

    def _model(self) -> Any:
        return self.trainer.evaluated_model if self.settings.eval.use_ema else self.trainer.model

    def _state(self) -> dict[str, Any]:
        train, val = self.source.train, self.source.val
        return self.trainer.state_dict() | {
            "best": asdict(self.best),
            "evaluated": self.evaluated,
            "config": self.settings.plain(),
            "class_names": list(train.class_names),
            "category_ids": list(train.category_ids),
            "image_size": self.source.image_size,
            "level_names": [level.name for level in self.trainer.model.head.levels],  # type: ignore[union-attr]
            "data": {"train": train.digest, "val": val.digest},
            "versions": {name: version(name) for name in ("fusion-det", "torch", "torchvision", "timm")},
        }

    def _save(self, *, also_best: bool = False) -> None:
        state, keep = self._state(), self.settings.trainer.keep_checkpoints
        save_checkpoint(self.folder / "last.pt", state, keep=keep)
        if also_best:
            save_checkpoint(self.folder / "best.pt", state, keep=1)

    def _write_results(self, metrics: BoxMetrics, *, finished: bool) -> None:
        write_json(
            self.folder / "results.json",
            {
                "finished": finished,
                "epoch": self.evaluated,
                **metrics.as_dict(),
                "best": asdict(self.best),
                "seed": self.settings.seed,
                "precision": self.precision,
                "device": str(self.device),
                "parameters": sum(p.numel() for p in self.trainer.model.parameters()),
                "seconds_of_this_process": round(time.perf_counter() - self.started, 1),
            },
        )

    def _finish(self) -> None:
        metrics = self.metrics
        if metrics is None:  # resumed right after its last evaluation
            written = json.loads((self.folder / "results.json").read_text(encoding="utf-8"))
            metrics = BoxMetrics(**{f.name: written[f.name] for f in fields(BoxMetrics)})
        self._write_results(metrics, finished=True)
        logger.info("%s", metrics.table())
        logger.info(
            "done in %.0f s; in %s: last.pt, best.pt (epoch %d, AP %.1f), results, predictions, metrics, pictures and TensorBoard events",
            time.perf_counter() - self.started, self.folder, self.best.epoch, 100 * self.best.score,
        )  # fmt: skip
        check_expectations(metrics, self.settings.eval.expect)

    def _record_start(self) -> None:
        images, targets = next(iter(self._batches(0, 0)))
        self.log.picture("train/first_batch", 0, training_batch(images, targets, self.source.train.class_names))
        write_start(
            self.folder, model=self.trainer.model, source=self.source, first_batch=(images, targets), seed=self.settings.seed,
            bucket_of_image=self.dataset.bucket_of_image, steps=self.trainer.total_steps,
        )  # fmt: skip
