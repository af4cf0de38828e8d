"""The matches of one class and area range, reduced to what a weighted average precision needs.

Average precision looks at precision only where a true positive was found, and of true positives that follow each other without a false
positive between them only the last can set the envelope: adding one to both parts of c / d never lowers it. Whatever the weights of the
images, the envelope is therefore a function of two running sums at the ends of such *streaks*: of the true positives and of all
detections that count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fusion_det.evaluation.match_table import MatchTable


@dataclass(frozen=True, eq=False)
class Curve:
    """One class and one area range of one run at T thresholds; E streak ends, threshold by threshold, by falling score.

    A running sum is named by *how many* entries of a list it includes, from 0 to the length of the list. The lists of hits and of
    ``sometimes`` go on from one threshold to the next, and the last streak end of a threshold includes all of its entries.
    """

    hit_image: np.ndarray
    """int64 [H]: image of each true positive."""
    hits_until: np.ndarray
    """int64 [E], not falling."""
    always_image: np.ndarray
    """int64 [C]: images of the detections that count at every threshold, down to the last true positive."""
    always_until: np.ndarray
    """int64 [Q], rising: the places in that list at which streaks end."""
    place: np.ndarray
    """int64 [E]: index into ``always_until``."""
    sometimes_image: np.ndarray
    """int64 [V]: images of the detections that count at some thresholds only."""
    sometimes_until: np.ndarray
    """int64 [E], not falling."""
    starts: np.ndarray
    """int64 [T + 1]: slices of E. The last end of each is repeated until the length is the multiple asked for."""


def class_curve(table: MatchTable, kind: int, area: int, thresholds: Sequence[int], *, multiple: int) -> Curve:
    """The curve of the class with index ``kind`` in area range ``area`` at ``thresholds`` (indices)."""
    matched, ignored = _flags(table, kind, area, thresholds)
    image = table.image[table.class_starts[kind] : table.class_starts[kind + 1]].astype(np.int64)
    counted, hit = ~ignored, matched & ~ignored
    always = np.logical_and.reduce(counted, axis=0)
    streaks = [_streak_ends(*rows) for rows in zip(hit, counted, strict=True)]
    sometimes = counted & ~always
    for t, ends in enumerate(streaks):
        sometimes[t, ends[-1] + 1 if len(ends) else 0 :] = False
    streaks = [np.append(ends, np.repeat(ends[-1:], -len(ends) % multiple)) for ends in streaks]
    threshold = np.repeat(np.arange(len(hit)), [len(ends) for ends in streaks])
    ends = np.concatenate([np.empty(0, np.int64), *streaks])
    always[int(ends.max(initial=-1)) + 1 :] = False
    always_until, place = np.unique(np.cumsum(always)[ends], return_inverse=True)
    return Curve(
        hit_image=np.broadcast_to(image, hit.shape)[hit],
        hits_until=np.cumsum(hit).reshape(hit.shape)[threshold, ends],
        always_image=image[always],
        always_until=always_until,
        place=place,
        sometimes_image=np.broadcast_to(image, sometimes.shape)[sometimes],
        sometimes_until=np.cumsum(sometimes).reshape(hit.shape)[threshold, ends],
        starts=np.searchsorted(threshold, np.arange(len(hit) + 1)),
    )


def _flags(table: MatchTable, kind: int, area: int, thresholds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """bool [T, n] matched and ignored of the detections of one class."""
    rows = slice(table.class_starts[kind], table.class_starts[kind + 1])
    shifts = np.array([area * table.shape[1] + t for t in thresholds], dtype=np.uint64)[:, None]
    matched, ignored = ((bits[rows] >> shifts) & np.uint64(1) != 0 for bits in (table.matched_bits, table.ignored_bits))
    return matched, ignored


def _streak_ends(hit: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """int64: positions of the true positives that no true positive follows before the next false positive."""
    relevant = np.flatnonzero(counted)
    is_hit = hit[relevant]
    return relevant[is_hit & ~np.append(is_hit[1:], False)]
