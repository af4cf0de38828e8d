"""The trained detector of an arm and some validation pictures, ready to be looked at. Imports torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fusion_det.compare.insight.subjects import Subject
from fusion_det.data.coco_index import CocoIndex, read_index
from fusion_det.data.dataset import DetectionDataset
from fusion_det.data.loader import Batch, collate
from fusion_det.errors import DataError
from fusion_det.inference import LoadedDetector, load

BATCH = 8


def read_pictures(subject: Subject) -> CocoIndex:
    """The validation set that the run was measured on. ``DataError`` if it or its pictures are not there any more, or not the same."""
    start = subject.run.start
    folder = Path(start["pictures"])
    if not folder.is_dir():
        raise DataError("the validation pictures are not there", where=str(folder), mend="bring them back")
    index = read_index(Path(start["annotations"]), folder)
    if index.digest != start["data"]["val"]:
        raise DataError("is not what it was when the runs were made", where=str(start["annotations"]), mend="bring the old file back")
    return index


def open_detector(subject: Subject) -> LoadedDetector:
    """With the weights that the run was measured with."""
    return load(subject.checkpoint, use_ema=subject.run.config.get("eval", {}).get("use_ema", True))


def chosen_pictures(index: CocoIndex, count: int) -> list[int]:
    """Positions of ``count`` pictures spread evenly over the set, in an order in which any first part is spread as well."""
    places = np.linspace(0, len(index) - 1, min(count, len(index)), dtype=int)
    order = np.argsort([_reversed_bits(i) for i in range(len(places))], kind="stable")
    found: list[int] = places[order].tolist()
    return found


def batches_of(index: CocoIndex, detector: LoadedDetector, pictures: list[int]) -> list[Batch]:
    """``pictures`` as the evaluation sees them, in batches of one shape each."""
    dataset = DetectionDataset(index, detector.buckets)
    by_shape: dict[int, list[int]] = {}
    for picture in pictures:
        by_shape.setdefault(int(dataset.bucket_of_image[picture]), []).append(picture)
    groups = [some[i : i + BATCH] for some in by_shape.values() for i in range(0, len(some), BATCH)]
    return [collate([dataset[0, picture] for picture in group]) for group in groups]


def _reversed_bits(number: int) -> int:
    return int(f"{number:016b}"[::-1], 2)
