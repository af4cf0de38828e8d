"""Which pictures come when: a pure function of (seed, epoch), so that a run can go on at any batch and on any number of processes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from fusion_det.data.dataset import Key

_ORDER_STREAM = 1
"""Keeps the random numbers of the order apart from those of the samples."""


def epoch_batches(bucket_of_image: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch, as positions of pictures; ``bucket_of_image`` is int64 [N].

    Every batch has ``batch_size`` pictures of one bucket. Every picture comes at least once: a bucket's last batch is filled up with
    pictures from the start of the bucket's own order. The number of batches is the same in every epoch.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_ORDER_STREAM, epoch)))
    order = rng.permutation(len(bucket_of_image))
    batches: list[list[int]] = []
    for bucket in np.unique(bucket_of_image):
        images = order[bucket_of_image[order] == bucket]
        count = -(-len(images) // batch_size)
        batches.extend(np.resize(images, (count, batch_size)).tolist())
    return [batches[position] for position in rng.permutation(len(batches))]


def batches_per_epoch(bucket_of_image: np.ndarray, batch_size: int) -> int:
    """How many batches :func:`epoch_batches` gives."""
    counts = np.unique(bucket_of_image, return_counts=True)[1]
    return int((-(-counts // batch_size)).sum())


def evaluation_batches(bucket_of_image: np.ndarray, batch_size: int, *, rank: int = 0, world_size: int = 1) -> list[list[int]]:
    """Every picture exactly once over all ranks, grouped by bucket; a bucket's last batch may be smaller and a rank may have none."""
    batches: list[list[int]] = []
    for bucket in np.unique(bucket_of_image):
        images = np.flatnonzero(bucket_of_image == bucket)[rank::world_size].tolist()
        batches.extend(images[start : start + batch_size] for start in range(0, len(images), batch_size))
    return batches


class BatchOrder(Sampler[list[Key]]):
    """The keys of one training epoch, batch by batch, from any batch on; :meth:`start_at` moves it to another epoch.

    ``batch_size`` counts the pictures of all ranks together: each rank takes its equal share of every batch.
    """

    def __init__(self, bucket_of_image: np.ndarray, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(f"expected a batch size that divides among {world_size} ranks, got {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"expected a rank in 0..{world_size - 1}, got {rank}")
        self.bucket_of_image, self.batch_size, self.seed = bucket_of_image, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.batches_per_epoch = batches_per_epoch(bucket_of_image, batch_size)
        self.start_at(epoch=0)

    def start_at(self, *, epoch: int, batch: int = 0) -> None:
        """Go on with ``batch`` of ``epoch``; nothing is decoded to get there."""
        if epoch < 0 or not 0 <= batch <= self.batches_per_epoch:
            raise ValueError(f"expected an epoch >= 0 and a batch in 0..{self.batches_per_epoch}, got epoch {epoch}, batch {batch}")
        self.epoch, self.start_batch = epoch, batch

    def __len__(self) -> int:
        return self.batches_per_epoch - self.start_batch

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, share = self.epoch, self.batch_size // self.world_size
        mine = slice(self.rank * share, (self.rank + 1) * share)
        for batch in epoch_batches(self.bucket_of_image, self.batch_size, self.seed, epoch)[self.start_batch :]:
            yield [(epoch, image) for image in batch[mine]]


class EvaluationOrder(Sampler[list[Key]]):
    """The keys of one evaluation: every picture exactly once over all ranks, epoch 0."""

    def __init__(self, bucket_of_image: np.ndarray, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1:
            raise ValueError(f"expected a batch size of at least 1, got {batch_size}")
        self.batches = evaluation_batches(bucket_of_image, batch_size, rank=rank, world_size=world_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Key]]:
        return iter([[(0, image) for image in batch] for batch in self.batches])
