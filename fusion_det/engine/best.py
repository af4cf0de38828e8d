"""The best evaluation of a run so far, with its predictions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from fusion_det.config.files import write_atomic
from fusion_det.config.run_folder import BEST_PREDICTIONS
from fusion_det.errors import FusionDetError


@dataclass(frozen=True)
class Best:
    """By AP; of equal ones the first."""

    epoch: int = 0
    summary: dict[str, float | None] = field(default_factory=dict)
    """The COCO numbers; empty before the first evaluation."""
    predictions: str = ""
    """SHA-256 of ``predictions_best.json``, so that a reader knows whose it is; empty in checkpoints of older versions."""

    @property
    def score(self) -> float:
        return self.summary.get("AP") or 0.0

    def is_beaten_by(self, summary: dict[str, float | None]) -> bool:
        """Whether an evaluation with ``summary`` is the best one now."""
        return not self.summary or (summary["AP"] or 0.0) > self.score


def keep_best(folder: Path, predictions: Path, epoch: int, summary: dict[str, float | None]) -> Best:
    """The evaluation at the end of ``epoch`` as the best one: its ``predictions`` also become ``predictions_best.json`` in ``folder``.

    ``FusionDetError`` for a disk that refuses; then the old file stays.
    """
    try:
        content = predictions.read_bytes()
        write_atomic(folder / BEST_PREDICTIONS, content)
    except OSError as error:
        where = str(folder / BEST_PREDICTIONS)
        raise FusionDetError(f"cannot keep the best predictions: {error.strerror or error}", where=where, mend="free some space") from error
    return Best(epoch, dict(summary), hashlib.sha256(content).hexdigest())
