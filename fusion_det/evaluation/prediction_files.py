"""Predictions files of several detectors as sources of late fusion: read, checked against each other, and padded image by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusion_det.data.ledger import listed
from fusion_det.errors import DataError, raise_all
from fusion_det.evaluation.predictions import DetectionArrays, read_predictions
from fusion_det.structures import RawDetections

_SAME = "give predictions on the same pictures, with the image ids and category ids of one annotation file"


@dataclass(frozen=True)
class PredictionFile:
    """One COCO results file."""

    path: str
    results: list[dict[str, Any]]
    arrays: DetectionArrays
    levels: tuple[str | None, ...]
    """The level of each record by name, where the file has it."""


def read_files(paths: Sequence[str | Path]) -> list[PredictionFile]:
    """The files, each of them usable; all faults at once as ``DataError``."""
    faults: list[Any] = []
    files: list[PredictionFile] = []
    for path in map(str, paths):
        try:
            results = read_predictions(path)
            arrays = DetectionArrays.from_results(results, where=path)
        except DataError as error:
            faults.append(error)
            continue
        levels = tuple(level if isinstance(level := record.get("level"), str) else None for record in results)
        files.append(PredictionFile(path, results, arrays, levels))
        faults += _faults_inside(files[-1])
    if not faults:
        faults = _faults_between(files)
    raise_all(faults)
    return files


def refuse_unknown_ids(files: Sequence[PredictionFile], image_ids: Sequence[int], category_ids: Sequence[int], annotations: str) -> None:
    """``DataError`` for every file with images or categories that the annotation file does not have."""
    faults = []
    for file in files:
        for kind, used, known in (("image", file.arrays.image_ids, image_ids), ("category", file.arrays.category_ids, category_ids)):
            unknown = np.unique(used[~np.isin(used, np.array(known, dtype=np.int64))]).tolist()
            if unknown:
                fault = f"{len(unknown)} {kind} ids are not in {annotations}: {listed([str(number) for number in unknown])}"
                faults.append(DataError(fault, where=file.path, mend=_SAME))
    raise_all(faults)


@dataclass(frozen=True)
class FileSources:
    """The detections of ``files`` as batches; boxes ``xyxy`` in pixels of the original pictures, whose sizes nobody needs to know."""

    files: Sequence[PredictionFile]
    score_threshold: float
    image_ids: tuple[int, ...]
    category_ids: tuple[int, ...]
    level_names: tuple[str | None, ...]
    """``None`` is the name of the level that a file does not tell."""

    @classmethod
    def of(cls, files: Sequence[PredictionFile], *, score_threshold: float) -> FileSources:
        images, categories = (
            tuple(sorted({number for file in files for number in getattr(file.arrays, name).tolist()}))
            for name in ("image_ids", "category_ids")
        )
        levels = tuple(dict.fromkeys(name for file in files for name in file.levels))
        return cls(files, score_threshold, images, categories, levels)

    def batches(self, size: int, device: torch.device) -> Iterator[tuple[tuple[int, ...], list[RawDetections]]]:
        """Image ids, and one source per file, for ``size`` images after another; numbers keep the digits of the files (float64)."""
        columns = [self._columns(file) for file in self.files]
        for start in range(0, len(self.image_ids), size):
            ids = self.image_ids[start : start + size]
            yield ids, [_padded(*column, start, len(ids)).to(device) for column in columns]

    def _columns(self, file: PredictionFile) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Position of the image of each record, sorted, and the records' columns in that order."""
        image = np.searchsorted(self.image_ids, file.arrays.image_ids)
        order = image.argsort(kind="stable")
        xywh, number = file.arrays.boxes[order], {name: i for i, name in enumerate(self.level_names)}
        return image[order], {
            "boxes": np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
            "scores": file.arrays.scores[order],
            "labels": np.searchsorted(self.category_ids, file.arrays.category_ids[order]),
            "levels": np.array([number[name] for name in file.levels], dtype=np.int64)[order],
            "valid": file.arrays.scores[order] >= self.score_threshold,
        }


def _padded(image: np.ndarray, columns: dict[str, np.ndarray], start: int, count: int) -> RawDetections:
    """The records of the images ``start`` to ``start + count``, padded to the longest."""
    low, high = np.searchsorted(image, (start, start + count))
    row = image[low:high] - start
    counts = np.bincount(row, minlength=count)
    slot = np.arange(len(row)) - (counts.cumsum() - counts)[row]

    def placed(values: np.ndarray) -> torch.Tensor:
        out = np.zeros((count, counts.max(initial=0), *values.shape[1:]), dtype=values.dtype)
        out[row, slot] = values[low:high]
        return torch.from_numpy(out)

    return RawDetections(**{name: placed(values) for name, values in columns.items()})


def _faults_inside(file: PredictionFile) -> list[DataError]:
    arrays, faults = file.arrays, []
    if not len(arrays):
        return [DataError("holds no detections", where=file.path, mend="leave the file out")]
    outside = np.flatnonzero((arrays.scores < 0) | (arrays.scores > 1))
    if len(outside):
        what = f"{len(outside)} scores are not between 0 and 1, the first is {float(arrays.scores[outside[0]])}"
        faults.append(DataError(what, where=f"{file.path}[{outside[0]}]", mend="write probabilities, so that detectors can be compared"))
    if (arrays.boxes[:, :2] + arrays.boxes[:, 2:]).max() <= 1:
        what = "all boxes lie within one pixel, so they seem to be shares of the picture"
        faults.append(DataError(what, where=file.path, mend="write [x, y, width, height] in pixels of the original picture"))
    rows = np.concatenate([arrays.image_ids[:, None], arrays.category_ids[:, None], arrays.boxes, arrays.scores[:, None]], axis=1)
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse.reshape(-1)] != np.arange(len(rows)))
    if len(again):
        what = f"{len(again)} detections are given twice, the first repeats [{first[inverse.reshape(-1)[again[0]]]}]"
        where = f"{file.path}[{again[0]}] (image {arrays.image_ids[again[0]]})"
        faults.append(DataError(what, where=where, mend="a picture was perhaps predicted twice; write each detection once"))
    return faults


def _faults_between(files: Sequence[PredictionFile]) -> list[DataError]:
    faults = []
    for i, file in enumerate(files):
        same = [other for other in files[:i] if _same(file.arrays, other.arrays)]
        if same:
            mend = "name each file once, and weigh it with weights="
            faults.append(DataError(f"holds the same detections as {same[0].path}", where=file.path, mend=mend))
        seen = {number for other in files[:i] for number in other.arrays.image_ids.tolist()}
        if i and not seen & set(file.arrays.image_ids.tolist()):
            faults.append(DataError(f"has no picture in common with {listed([f.path for f in files[:i]])}", where=file.path, mend=_SAME))
    return faults


def _same(one: DetectionArrays, other: DetectionArrays) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("image_ids", "category_ids", "boxes", "scores"))
