"""Batches from samples, with or without worker processes; which of the two cannot change a single bit."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from fusion_det.data.dataset import DetectionDataset, Key, Sample
from fusion_det.data.order import EvaluationOrder
from fusion_det.errors import DataError, raise_all
from fusion_det.structures import ImageBatch, Targets

Batch = tuple[ImageBatch, Targets]

BOX_MULTIPLE = 16
"""The padded number of boxes is a multiple of this, so that compiled code sees few shapes."""


def collate(samples: Sequence[Sample]) -> Batch:
    """One batch from samples of one bucket shape; boxes are padded to a common multiple of 16."""
    views = [sample.view for sample in samples]
    most = max(len(view.boxes) for view in views)
    padded = max(1, -(-most // BOX_MULTIPLE)) * BOX_MULTIPLE
    boxes = torch.zeros(len(views), padded, 4)
    labels = torch.zeros(len(views), padded, dtype=torch.int64)
    valid = torch.zeros(len(views), padded, dtype=torch.bool)
    crowd = torch.zeros(len(views), padded, dtype=torch.bool)
    for row, view in enumerate(views):
        count = len(view.boxes)
        boxes[row, :count] = torch.from_numpy(view.boxes)
        labels[row, :count] = torch.from_numpy(view.labels)
        crowd[row, :count] = torch.from_numpy(view.crowd)
        valid[row, :count] = ~crowd[row, :count]
    images = ImageBatch(
        pixels=torch.stack([view.pixels for view in views]),
        sizes=torch.tensor([view.size for view in views]),
        scales=torch.tensor([view.scale for view in views], dtype=torch.float32),
        original_sizes=torch.tensor([sample.original_size for sample in samples]),
        image_ids=tuple(sample.image_id for sample in samples),
    )
    return images, Targets(boxes, labels, valid, crowd)


class _Fault(NamedTuple):
    """A ``DataError`` as plain data: an exception that leaves a worker process comes back with the worker's traceback as its text."""

    what: str
    where: str
    mend: str


class _Guarded(Dataset[Sample | _Fault]):
    def __init__(self, dataset: DetectionDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Key) -> Sample | _Fault:
        try:
            return self.dataset[key]
        except DataError as error:
            return _Fault(error.what, error.where, error.mend)


def _collate_or_faults(samples: Sequence[Sample | _Fault]) -> Batch | list[_Fault]:
    faults = [sample for sample in samples if isinstance(sample, _Fault)]
    return faults or collate([sample for sample in samples if isinstance(sample, Sample)])


def _prepare_worker(_: int) -> None:
    """Ctrl-C reaches the whole process group: workers go on, so that the run can end its step and save. They inherit no other handler."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def worker_count(workers: int | Literal["auto"]) -> int:
    """``auto``: none on a machine with up to 2 cores, else one less than the cores and at most 8."""
    if workers != "auto":
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores <= 2 else min(8, cores - 1)


class Batches:
    """Iterates over the batches of ``order``, again and again; worker processes stay alive in between.

    A picture that cannot be used is told as its ``DataError`` (several in one batch: all of them), also from a worker process.
    """

    def __init__(self, dataset: DetectionDataset, order: Sampler[list[Key]], *, workers: int | Literal["auto"]) -> None:
        self.dataset, self.order, self.workers = dataset, order, worker_count(workers)
        self._loader = self._new_loader()

    def _new_loader(self) -> DataLoader[Sample | _Fault]:
        return DataLoader(
            _Guarded(self.dataset),
            batch_sampler=self.order,
            collate_fn=_collate_or_faults,
            num_workers=self.workers,
            worker_init_fn=_prepare_worker,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own: starting an epoch must not draw from the generator that the model uses
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        faults: list[_Fault] = []
        for batch in self._loader:
            if isinstance(batch, list):
                faults = batch
                break
            yield batch
        if faults:
            self._loader = self._new_loader()  # ends the workers now; held by a traceback they would take 5 seconds each to go
            raise_all([DataError(fault.what, where=fault.where, mend=fault.mend) for fault in faults])


def train_loader(dataset: DetectionDataset, order: Sampler[list[Key]], *, workers: int | Literal["auto"] = "auto") -> Batches:
    """Batches in the given order, usually a :class:`~fusion_det.data.order.BatchOrder`; move that with ``start_at`` between epochs."""
    return Batches(dataset, order, workers=workers)


def eval_loader(
    dataset: DetectionDataset, *, batch_size: int, workers: int | Literal["auto"] = "auto", rank: int = 0, world_size: int = 1
) -> Batches:
    """Every picture of the data set exactly once over all ranks."""
    order = EvaluationOrder(dataset.bucket_of_image, batch_size=batch_size, rank=rank, world_size=world_size)
    return Batches(dataset, order, workers=workers)
