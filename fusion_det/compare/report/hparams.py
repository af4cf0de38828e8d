"""The runs of a study for TensorBoard's HParams page. Written with TensorBoard alone, as importing torch for it takes seconds."""

from __future__ import annotations

import logging
import math
import re
import time
from pathlib import Path
from typing import Any

from fusion_det.compare.outcome import Outcome
from fusion_det.compare.report.words import own_words
from fusion_det.compare.run_record import RunRecord
from fusion_det.config.overrides import split
from fusion_det.errors import FusionDetError
from fusion_det.evaluation.box_metrics import printable

logger = logging.getLogger(__name__)
FOLDER = "tensorboard"


def write_hparams(outcome: Outcome) -> bool:
    """One entry per finished run below ``tensorboard/``: arm, seed and overrides against the COCO numbers.

    Entries of an earlier report are replaced. A log is never worth a report: a missing TensorBoard or a full disk gives a warning.
    """
    try:
        for number, run in enumerate(outcome.runs):
            folder = outcome.folder / FOLDER / _safe(number, run)
            folder.mkdir(parents=True, exist_ok=True)
            for file in folder.glob("events.out.tfevents.*"):
                file.unlink()
            _write(folder, _settings(outcome, run), _numbers(run))
    except Exception as error:  # third-party code that only makes logs
        logger.warning("no TensorBoard entries: %s", printable(f"{type(error).__name__}: {error}"))
        return False
    return True


def _write(folder: Path, settings: dict[str, str | float], numbers: dict[str, float]) -> None:
    """One session: its settings, its numbers, its end."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    start, end = SessionStartInfo(), SessionEndInfo(status=api_pb2.Status.Value("STATUS_SUCCESS"))
    for key, value in settings.items():
        if isinstance(value, str):
            start.hparams[key].string_value = value
        else:
            start.hparams[key].number_value = value
    summary = Summary()
    for tag, data in (
        (metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start, version=metadata.PLUGIN_DATA_VERSION)),
        (metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end, version=metadata.PLUGIN_DATA_VERSION)),
    ):
        entry: Any = summary.value.add(tag=tag)
        entry.metadata.plugin_data.plugin_name = metadata.PLUGIN_NAME
        entry.metadata.plugin_data.content = data.SerializeToString()
    for tag, number in numbers.items():
        summary.value.add(tag=tag, simple_value=number)
    writer = EventFileWriter(str(folder))
    writer.add_event(Event(wall_time=time.time(), step=0, summary=summary))
    writer.close()


def _settings(outcome: Outcome, run: RunRecord) -> dict[str, str | float]:
    """Arm, seed, and each override by its key."""
    settings: dict[str, str | float] = {"arm": printable(run.arm), "seed": float(run.seed)}
    for word in own_words(outcome.arms).get(run.arm, ()):
        try:
            part = split(word)
        except FusionDetError:
            continue
        settings[printable(part.key)] = printable(word.partition("=")[2])
    return settings


def _numbers(run: RunRecord) -> dict[str, float]:
    numbers = dict(run.results.get("summary") or {}) | {
        "parameters": run.results.get("parameters"),
        "minutes": run.seconds and run.seconds / 60,
    }
    return {name: float(v) for name, v in numbers.items() if isinstance(v, int | float) and math.isfinite(v)}


def _safe(number: int, run: RunRecord) -> str:
    return f"{number:03d}_{re.sub(r'[^A-Za-z0-9-]+', '_', run.arm)[:60].strip('_')}_seed{run.seed}"
