"""A few validation pictures in which an arm and the baseline differ most in what they find, with all that is needed to draw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusion_det.compare.insight.hits import Hits, Objects, hits_of
from fusion_det.compare.insight.thumbnails import thumbnails
from fusion_det.compare.outcome import Outcome
from fusion_det.evaluation.truth_arrays import TruthArrays

MOST_PICTURES, MOST_BYTES = 12, 400_000


@dataclass(frozen=True)
class Found:
    """How many objects only one of both finds: means over the paired seeds, all pictures."""

    more: float
    """Only the arm."""
    less: float
    """Only the baseline."""
    wrong: float
    """Detections of the arm that found no object."""
    wrong_base: float


@dataclass(frozen=True)
class Shown:
    """One picture, one arm beside the baseline, one seed."""

    arm: str
    gained: bool
    """Whether the arm finds more in it than the baseline, or less."""
    name: str
    """File name."""
    seed: int
    size: tuple[int, int]
    """Width and height of the stored picture, which all boxes (xywh) refer to."""
    uri: str
    """The picture, made smaller, as a ``data:`` address."""
    truth: tuple[tuple[tuple[float, ...], str, bool, bool], ...]
    """Box, class, found by the baseline, found by the arm."""
    panels: tuple[tuple[tuple[tuple[float, ...], str, float, bool], ...], ...]
    """Of the baseline, of the arm: box, class, score, whether it found an object."""

    @property
    def differing(self) -> tuple[str, ...]:
        """Classes of the objects that only the one found which finds more."""
        return tuple(name for _, name, base, arm in self.truth if base != arm and arm == self.gained)


@dataclass(frozen=True)
class Gallery:
    """Pictures and counts; ``why`` says why there are no pictures."""

    found: Mapping[str, Found]
    shown: tuple[Shown, ...] = ()
    why: str = ""


def make_gallery(outcome: Outcome) -> Gallery | None:
    """Of the arms with seeds in common with the baseline; ``None`` without ground truth. Raises ``DataError`` for unusable predictions."""
    if outcome.comparison is None or not outcome.ground_truth:
        return None
    truth = TruthArrays.of(dict(outcome.ground_truth), [])
    objects = Objects.of(truth)
    base = {run.seed: hits_of(run, truth) for run in outcome.of_arm(outcome.baseline)}
    found, choices = {}, []
    others = [arm for arm in outcome.comparison.arms if arm != outcome.baseline]
    for arm in others:
        pairs = [(base[run.seed], hits_of(run, truth)) for run in outcome.of_arm(arm) if run.seed in base]
        if pairs:
            found[arm] = _counted(pairs)
            choices += _choose(arm, pairs, objects, max(1, MOST_PICTURES // (2 * len(others))))
    choices = sorted(choices, key=lambda choice: -choice.difference)[:MOST_PICTURES]
    choices.sort(key=lambda choice: (others.index(choice.arm), not choice.gained))
    return _with_pictures(outcome, choices, objects, found)


def _counted(pairs: Sequence[tuple[Hits, Hits]]) -> Found:
    rows = [
        ((arm.found & ~base.found).sum(), (base.found & ~arm.found).sum(), (~arm.right).sum(), (~base.right).sum()) for base, arm in pairs
    ]
    return Found(*np.mean(rows, axis=0).tolist())


@dataclass(frozen=True, eq=False)
class _Choice:
    arm: str
    gained: bool
    image: int
    difference: float
    pair: tuple[Hits, Hits]


def _choose(arm: str, pairs: Sequence[tuple[Hits, Hits]], objects: Objects, count: int) -> list[_Choice]:
    """The pictures with the largest gains, then those with the largest losses, over all seeds; of each the seed that shows it best."""
    steps = np.stack([arm.found.astype(int) - base.found for base, arm in pairs])
    chosen = []
    for sign in (1, -1):
        by_seed = np.stack([np.bincount(objects.image, weights=sign * row, minlength=len(objects.image_ids)) for row in steps])
        total = by_seed.mean(axis=0)
        crowded = np.bincount(objects.image, minlength=len(objects.image_ids))
        for image in np.lexsort((crowded, -total))[:count]:
            if total[image] > 0:
                chosen.append(_Choice(arm, sign > 0, int(image), float(total[image]), pairs[int(by_seed[:, image].argmax())]))
    return chosen


def _with_pictures(outcome: Outcome, choices: Sequence[_Choice], objects: Objects, found: Mapping[str, Found]) -> Gallery:
    records = {image["id"]: image for image in outcome.ground_truth["images"]}
    images = [records[int(objects.image_ids[choice.image])] for choice in choices]
    folder = next((run.start["pictures"] for run in outcome.runs if run.start.get("pictures")), None)
    if folder is None:
        return Gallery(found, why="nothing is known of where the pictures are")
    if not images:
        return Gallery(found, why="there is none in which an arm finds more or fewer objects than the baseline")
    paths = [Path(folder) / image["file_name"] for image in images]
    if missing := [path for path in paths if not path.is_file()]:
        return Gallery(found, why=f"{missing[0]} is not there")
    names = {category["id"]: str(category["name"]) for category in outcome.ground_truth["categories"]}
    uris = thumbnails(paths, MOST_BYTES)
    shown = [_shown(choice, image, uri, objects, names) for choice, image, uri in zip(choices, images, uris, strict=False)]
    return Gallery(found, tuple(shown))


def _shown(choice: _Choice, image: Mapping[str, Any], uri: str, objects: Objects, names: Mapping[int, str]) -> Shown:
    here = np.flatnonzero(objects.image == choice.image)
    base, arm = choice.pair
    truth = [(tuple(objects.boxes[i].tolist()), names[int(objects.category[i])], bool(base.found[i]), bool(arm.found[i])) for i in here]
    panels = []
    for hits in choice.pair:
        rows = np.flatnonzero(hits.image == choice.image)
        panels.append(
            tuple((tuple(hits.boxes[i].tolist()), names[int(hits.category[i])], float(hits.score[i]), bool(hits.right[i])) for i in rows)
        )
    size = (int(image["width"]), int(image["height"]))
    return Shown(choice.arm, choice.gained, str(image["file_name"]), base.seed, size, uri, tuple(truth), tuple(panels))
