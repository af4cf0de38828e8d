"""Comparing predictions files of any framework: COCO results against one COCO annotation file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fusion_det.compare.comparison import compare_study
from fusion_det.compare.results import Comparison
from fusion_det.compare.study import Study
from fusion_det.data.coco_file import read_coco
from fusion_det.errors import DataError, FusionDetError, raise_all
from fusion_det.evaluation.array_metrics import match
from fusion_det.evaluation.match_table import MatchTable
from fusion_det.evaluation.predictions import DetectionArrays, read_predictions
from fusion_det.evaluation.repeats import repeated


def compare_files(
    ground_truth: str | Path,
    arms: Mapping[str, Sequence[str | Path] | Mapping[str, str | Path]],
    *,
    baseline: str | None = None,
    max_detections: int = 100,
    **options: Any,
) -> Comparison:
    """Compare arms given as predictions files, one file per training seed.

    ``arms``: by name, the files in the order of their seeds (named "0", "1", ...), or by seed; files of one place or seed are paired.
    ``baseline`` is the first arm unless named. ``options`` are those of :func:`compare_study`.

    Raises :class:`DataError`, one line per fault, for files that cannot be read, unknown ids, numbers that are not finite, detections
    that are given twice, and everything that :class:`Study` refuses.
    """
    if len(arms) < 2:
        raise ValueError(f"arms: expected two or more, got {list(arms)}")
    baseline = next(iter(arms)) if baseline is None else baseline
    truth = read_coco(Path(ground_truth))._asdict()
    tables: dict[str, dict[str, MatchTable]] = {}
    faults: list[FusionDetError] = []
    for arm, files in arms.items():
        named = files if isinstance(files, Mapping) else {str(number): path for number, path in enumerate(files)}
        tables[arm] = {}
        for seed, path in named.items():
            try:
                tables[arm][str(seed)] = match_file(truth, path, max_detections=max_detections)
            except DataError as error:
                faults.append(error)
    raise_all(faults)
    return compare_study(Study(tables, baseline), **options)


def match_file(ground_truth: dict[str, Any], path: str | Path, *, max_detections: int = 100) -> MatchTable:
    """The matches of one predictions file with a COCO dict; every fault as :class:`DataError` that names the file."""
    where = str(path)
    detections = DetectionArrays.from_results(read_predictions(path), where=where)
    again, first = repeated(detections)
    if len(again):
        what = f"{len(again)} detections are given twice, the first repeats [{first[0]}]"
        mend = "a picture was perhaps predicted twice; write each detection once"
        raise DataError(what, where=f"{where}[{again[0]}] (image {detections.image_ids[again[0]]})", mend=mend)
    try:
        return match(ground_truth, detections, max_detections=max_detections)
    except DataError as error:
        raise DataError(error.what, where=f"{where} ({error.where})" if error.where else where, mend=error.mend) from error
