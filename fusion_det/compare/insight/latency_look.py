"""Latencies for the report: measured once for each pair of detectors on a machine, then read from the study's folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fusion_det.compare.insight.kept import Kept
from fusion_det.compare.insight.looked import Looked, reason_of
from fusion_det.compare.outcome import Outcome
from fusion_det.compare.run_record import RunRecord

logger = logging.getLogger(__name__)
_SECONDS, _MOST_SECONDS_PER_ARM = 60.0, 10.0
_MODEL = ("backbone", "neck", "fusion", "block", "head", "late_fusion", "data", "image_size")
_TRAINER = ("precision", "channels_last")


def look_at_latency(outcome: Outcome) -> Looked:
    """Every arm beside the baseline; arms whose configs are not known are left out. What fails is a reason.

    What another machine, number of threads or version of torch took is never shown as this one's.
    """
    base = _record(outcome, outcome.baseline)
    others = [(arm, run) for arm in outcome.arms if arm != outcome.baseline and (run := _record(outcome, arm)) is not None]
    if base is None or not others:
        return Looked()
    kept, arms, why = Kept(outcome.folder, "latency"), {}, {}
    seconds = min(_MOST_SECONDS_PER_ARM, _SECONDS / len(others))
    classes = len(base.start["class_names"])
    for arm, run in others:
        try:
            from fusion_det.compare.insight import latency  # imports torch

            models = {"base": _model(base.config), "arm": _model(run.config), "classes": classes}
            key = kept.key(**models, kinds=latency.KINDS, machine=latency.this_machine())
            if key not in kept:
                logger.info("measuring the latency of %s beside %s", arm, outcome.baseline)
                kept.put(key, latency.measure_latency(base.config, run.config, classes, seconds=seconds))
            arms[arm] = kept[key]
        except Exception as error:  # a report is worth more than this part of it
            logger.debug("latency of %s", arm, exc_info=error)
            why[arm] = reason_of(error)
    return Looked(arms, why)


def _record(outcome: Outcome, arm: str) -> RunRecord | None:
    return next((run for run in outcome.of_arm(arm) if run.config.get("backbone") and run.start.get("class_names")), None)


def _model(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: config.get(key) for key in _MODEL} | {key: config.get("trainer", {}).get(key) for key in _TRAINER}
