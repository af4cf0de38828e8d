"""From finished runs to verdicts: the ground truth, the matches of every run, and the statistics over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusion_det.compare.comparison import DEFAULT_METRICS, compare_study
from fusion_det.compare.files import match_file
from fusion_det.compare.results import Comparison
from fusion_det.compare.run_record import RunRecord
from fusion_det.compare.study import Study
from fusion_det.config.compare_schema import StatisticsSettings
from fusion_det.data.coco_file import read_coco
from fusion_det.data.coco_index import read_index
from fusion_det.errors import DataError, FusionDetError, raise_all
from fusion_det.evaluation.array_metrics import match
from fusion_det.evaluation.match_table import MatchTable
from fusion_det.evaluation.predictions import DetectionArrays, read_predictions


def judge(
    runs: Sequence[RunRecord],
    ground_truth: dict[str, Any],
    settings: StatisticsSettings,
    *,
    baseline: str,
    threads: int = 1,
    brief: bool = False,
) -> Comparison:
    """Compare the arms of ``runs`` with ``baseline`` on ``ground_truth``. All faults of all files at once as ``DataError``.

    ``brief``: only the metric of ``settings``, without classes and BCa intervals, in a fraction of the time.
    """
    arms: dict[str, dict[str, MatchTable]] = {}
    faults: list[FusionDetError] = []
    for run in runs:
        try:
            table = match_run(run, ground_truth)
        except FusionDetError as error:
            faults += getattr(error, "faults", [error])
            continue
        arms.setdefault(run.arm, {})[str(run.seed)] = table
    raise_all(faults)
    return compare_study(
        Study(arms, baseline),
        metrics=() if brief else DEFAULT_METRICS,
        primary=settings.metric,
        margin=settings.margin,
        confidence=settings.confidence,
        resamples=settings.resamples,
        seed=settings.seed,
        bca=settings.bca and not brief,
        classes=not brief,
        threads=threads,
    )


def match_run(run: RunRecord, ground_truth: dict[str, Any]) -> MatchTable:
    """The matches of one run's predictions, with the limit on detections that it was evaluated with; faults name the file."""
    if run.folder is None:  # a stranger's file may hold everything twice
        return match_file(ground_truth, run.predictions)
    limit = run.config.get("eval", {}).get("max_detections", 100)
    detections = DetectionArrays.from_results(read_predictions(run.predictions), where=str(run.predictions))
    try:
        return match(ground_truth, detections, max_detections=limit)
    except DataError as error:
        raise DataError(error.what, where=f"{run.predictions} ({error.where})", mend=error.mend) from error


def truth_of_runs(runs: Sequence[RunRecord]) -> tuple[dict[str, Any], str]:
    """(COCO dict, file) of the validation data that all of ``runs`` were measured on; the file must still be what it was then."""
    start = runs[0].start
    annotations = Path(start["annotations"])
    index = read_index(annotations, Path(start["pictures"]))
    if index.digest != start["data"]["val"]:
        raise DataError("is not what it was when the runs were made", where=str(annotations), mend="bring the old file back")
    return index.ground_truth(), str(annotations)


def truth_of_file(path: Path) -> tuple[dict[str, Any], str]:
    """(COCO dict, file) of an annotation file; its pictures are not needed."""
    file = read_coco(path)
    return {"images": file.images, "annotations": file.annotations, "categories": file.categories}, str(path)
