"""``tools/evaluate.py``: a checkpoint on pictures, or a predictions file against an annotation file (without importing torch)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusion_det.config.schema import EvaluateConfig


def evaluate(settings: EvaluateConfig) -> None:
    """Measure what the settings name."""
    if settings.checkpoint is None:
        from fusion_det.evaluation.file_run import evaluate_files

        evaluate_files(settings)
    else:
        from fusion_det.evaluation.run import evaluate as evaluate_checkpoint

        evaluate_checkpoint(settings)
