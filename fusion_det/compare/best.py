"""The statistics once more, on each run's best epoch. Chosen and reported on the same pictures, they are secondary and optimistic."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fusion_det.compare.judge import judge
from fusion_det.compare.outcome import BestEpochs
from fusion_det.compare.run_record import RunRecord
from fusion_det.config.compare_schema import StatisticsSettings
from fusion_det.config.run_folder import BEST_PREDICTIONS, RESULTS
from fusion_det.errors import DataError, FusionDetError

_AGAIN = "train it again if its best epoch matters"


def judge_best(
    runs: Sequence[RunRecord], ground_truth: dict[str, Any], settings: StatisticsSettings, *, baseline: str, threads: int = 1
) -> BestEpochs | None:
    """Verdicts on the metric of ``settings``, or why there are none; ``None`` if no run tells its best epoch.

    There are none if all best epochs are the last ones, which have their verdicts; if the runs had different numbers of evaluations, as
    more of them are more chances; and if the predictions of a best epoch are not there.
    """
    if not any(run.best for run in runs):
        return None
    if silent := [run.name for run in runs if not run.best]:
        return BestEpochs(why=f"no best epoch of {_some(silent)} is known: only the end of its training was measured")
    if all(run.best_is_last for run in runs):
        return BestEpochs(last=True)
    numbers = {run.evaluations for run in runs}
    if 0 in numbers:
        silent = [run.name for run in runs if not run.evaluations]
        return BestEpochs(why=f"the number of evaluations of {_some(silent)} is not known")
    if len(numbers) > 1:
        what = f"the runs were evaluated {min(numbers)} to {max(numbers)} times, and who is evaluated more often has more chances"
        return BestEpochs(why=what)
    try:
        found = [_at_best(run) for run in runs]
        return BestEpochs(judge(found, ground_truth, settings, baseline=baseline, threads=threads, brief=True), evaluations=numbers.pop())
    except FusionDetError as error:
        return BestEpochs(why=error.lines[0])


def _at_best(run: RunRecord) -> RunRecord:
    """``run`` with the predictions of its best epoch, which must be those that its results tell of."""
    if run.best_is_last or run.folder is None:
        return run
    file = run.folder / BEST_PREDICTIONS
    told = (run.best or {}).get("predictions")
    if not told:
        raise DataError("was trained by a version that did not keep the predictions of the best epoch", where=run.name, mend=_AGAIN)
    try:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {BEST_PREDICTIONS}: {error.strerror or error}", where=run.name, mend=_AGAIN) from error
    if found != told:
        raise DataError(f"{BEST_PREDICTIONS} is not the file that {RESULTS} tells of", where=run.name, mend=_AGAIN)
    return replace(run, predictions=file)


def _some(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
