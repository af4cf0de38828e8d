"""Pictures and targets by key. A sample is a pure function of (seed, epoch, picture): no state, no global random numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from fusion_det.data.augment import Augment, View, evaluation_view
from fusion_det.data.buckets import Shape, assign
from fusion_det.data.coco_index import CocoIndex
from fusion_det.data.picture_check import read_annotated

Key = tuple[int, int]
"""Epoch and position of the picture in the index."""


class Sample(NamedTuple):
    """One picture as the network sees it, and where it comes from."""

    view: View
    original_size: Shape
    """Height and width of the stored picture."""
    image_id: int


class DetectionDataset(Dataset[Sample]):
    """The pictures of ``index``, each in the bucket that fits it best, augmented for training or as they are (``augment=None``)."""

    def __init__(self, index: CocoIndex, buckets: tuple[Shape, ...], *, augment: Augment | None = None, seed: int = 0) -> None:
        self.index, self.buckets, self.augment, self.seed = index, buckets, augment, seed
        self.bucket_of_image = assign(index.sizes, buckets)
        """int64 [N]: position in ``buckets``."""

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Key) -> Sample:
        """The sample of (epoch, image). Raises a ``DataError`` for a picture that cannot be read or has not the annotated size."""
        epoch, image = key
        pixels = read_annotated(self.index, image)
        bucket = self.buckets[self.bucket_of_image[image]]
        objects = self.index.targets(image)
        if self.augment is None:
            view = evaluation_view(pixels, *objects, bucket)
        else:
            change = self.augment.draw(np.random.default_rng((self.seed, epoch, image)))
            view = self.augment.apply(pixels, *objects, change, bucket)
        return Sample(view, (pixels.shape[1], pixels.shape[2]), int(self.index.image_ids[image]))
