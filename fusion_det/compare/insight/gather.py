"""Everything that a report tells of the trained detectors, measured or taken from what was kept; what fails is a sentence, not a fault."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fusion_det.compare.insight.gallery import Gallery, make_gallery
from fusion_det.compare.insight.kept import Kept
from fusion_det.compare.insight.latency_look import look_at_latency
from fusion_det.compare.insight.looked import Looked, reason_of
from fusion_det.compare.insight.subjects import Subject, Subjects, subjects_of
from fusion_det.compare.outcome import Outcome

if TYPE_CHECKING:
    from fusion_det.data.coco_index import CocoIndex
    from fusion_det.inference import LoadedDetector

logger = logging.getLogger(__name__)
_SECONDS_OF_ABLATIONS, _MOST_SECONDS_PER_ARM = 150.0, 25.0


@dataclass(frozen=True)
class Insights:
    """Of a whole study; empty where nothing was looked at."""

    reliance: Looked = field(default_factory=Looked)
    decisions: Looked = field(default_factory=Looked)
    gallery: Gallery | None = None
    latency: Looked = field(default_factory=Looked)
    """Of every arm but the baseline, beside it."""
    seed: int | None = None
    """Of the runs that were looked at, if it is the same for all."""


def gather_insights(outcome: Outcome) -> Insights:
    """Look at the detector of one run of each arm. What was measured before, on the same weights and pictures, is not measured again.

    Nothing if there was no comparison.
    """
    if outcome.comparison is None:
        return Insights()
    try:
        subjects = subjects_of(outcome)
    except OSError as error:
        nothing = Looked(why=dict.fromkeys(outcome.arms, f"its checkpoint cannot be read: {error.strerror}"))
        return Insights(nothing, nothing, _gallery(outcome), look_at_latency(outcome))
    seconds = min(_MOST_SECONDS_PER_ARM, _SECONDS_OF_ABLATIONS / max(len(subjects.found), 1))
    opened = [_Opened(subject) for subject in subjects]
    reliance = _look(outcome, subjects, opened, "reliance", lambda it: _reliance(it, seconds))
    decisions = _look(outcome, subjects, opened, "decisions", _decisions)
    return Insights(reliance, decisions, _gallery(outcome), look_at_latency(outcome), subjects.seed)


def _gallery(outcome: Outcome) -> Gallery | None:
    try:
        return make_gallery(outcome)
    except Exception as error:  # as below
        logger.debug("gallery", exc_info=error)
        return Gallery({}, why=reason_of(error))


def _decisions(opened: _Opened) -> dict[str, Any]:
    from fusion_det.compare.insight.decisions import measure_decisions  # imports torch

    return measure_decisions(opened.detector, opened.index)


def _reliance(opened: _Opened, seconds: float) -> dict[str, Any]:
    from fusion_det.compare.insight.reliance import measure_reliance  # imports torch

    return measure_reliance(opened.detector, opened.index, seconds=seconds)


class _Opened:
    """A subject whose detector and pictures are read when they are first needed."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    @cached_property
    def detector(self) -> LoadedDetector:
        from fusion_det.compare.insight.detectors import open_detector

        return open_detector(self.subject)

    @cached_property
    def index(self) -> CocoIndex:
        from fusion_det.compare.insight.detectors import read_pictures

        return read_pictures(self.subject)

    def close(self) -> None:
        """Let go of what was read."""
        self.__dict__.pop("detector", None)


def _look(
    outcome: Outcome, subjects: Subjects, opened: Iterable[_Opened], kind: str, measure: Callable[[_Opened], dict[str, Any]]
) -> Looked:
    kept, arms, why = Kept(outcome.folder, kind), {}, dict(subjects.why)
    for one in opened:
        subject = one.subject
        key = kept.key(checkpoint=subject.digest, data=(subject.run.start.get("data") or {}).get("val"))
        try:
            if key not in kept:
                logger.info("looking at %s of %s", kind, subject.run.name)
                kept.put(key, measure(one))
            arms[subject.arm] = kept[key]
        except Exception as error:  # a report is worth more than this part of it
            logger.debug("%s of %s", kind, subject.run.name, exc_info=error)
            why[subject.arm] = reason_of(error)
        finally:
            one.close()
    return Looked(arms, why)
