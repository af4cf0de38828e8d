"""Studies whose truth is known: detections drawn from a simple model, to find out how often intervals and verdicts are right.

No boxes are drawn. A ground-truth box is a difficulty; a run finds it or not, with a score and an overlap that follow the run's quality;
false positives come at random. Seeds differ in quality (partly the same for all arms), arms differ in quality and in which boxes they find
easy. AP of such matches bends and ties as that of real ones does, and the truth comes from as many images as one likes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from fusion_det.compare.replicates import replicate_metrics
from fusion_det.compare.study import Study
from fusion_det.evaluation.match_table import MatchTable

Draw = Callable[[np.random.Generator, int], np.ndarray]
"""Draws so many numbers with mean 0 and standard deviation 1."""


def normal(rng: np.random.Generator, count: int) -> np.ndarray:
    """Standard normal."""
    return rng.standard_normal(count)


def skewed(rng: np.random.Generator, count: int) -> np.ndarray:
    """Mostly a little above the mean, sometimes far below: a training run that now and then goes wrong (skewness -2)."""
    return 1.0 - rng.exponential(1.0, count)


@dataclass(frozen=True)
class SimulatedTask:
    """How images, arms and seeds vary; qualities in logits of finding a box of middling difficulty."""

    images: int = 100
    classes: int = 1
    boxes_per_image: float = 3.0
    background_per_image: float = 3.0
    quality: float = 1.0
    """Of the baseline."""
    seed_spread: float = 0.1
    """Standard deviation of the quality of a run: seed and arm together."""
    shared_spread: float = 0.1
    """Standard deviation of what a seed changes in all arms alike (data order, initial weights)."""
    taste: float = 0.5
    """Standard deviation of how much easier an arm finds a box than another arm does, in all its seeds."""
    run_noise: float = 0.5
    """The same for one run."""
    seed_law: Draw = normal
    """Of both spreads of seeds."""
    thresholds: tuple[float, ...] = (0.6,)
    """Of the overlap; AP is the mean over them, and every one costs time."""

    def study(self, seeds: int, rng: np.random.Generator, gains: Mapping[str, float]) -> Study:
        """An arm "base" and one for each of ``gains`` in quality over it, with fresh images and ``seeds`` paired seeds."""
        world = _World.draw(self, rng)
        shared = self.shared_spread * self.seed_law(rng, seeds)
        arms: dict[str, dict[str, MatchTable]] = {}
        for arm, gain in {"base": 0.0, **gains}.items():
            tastes = self.taste * rng.standard_normal(len(world.image))
            qualities = self.quality + gain + shared + self.seed_spread * self.seed_law(rng, seeds)
            arms[arm] = {str(s): world.run(qualities[s], tastes, rng) for s in range(seeds)}
        return Study(arms, "base")

    def true_difference(self, gain: float, rng: np.random.Generator, *, images: int = 50_000, draws: int = 200_000) -> float:
        """The difference in AP that ``gain`` makes over all seeds and all images, from ``images`` images at nine qualities.

        The same random numbers serve all qualities, so that most of their noise cancels; exactly 0 without a gain, by symmetry.
        """
        if not gain:
            return 0.0
        big = replace(self, images=images)
        world = _World.draw(big, rng)
        tastes, run_seed = self.taste * rng.standard_normal(len(world.image)), int(rng.integers(1 << 31))
        spread = max(np.hypot(self.seed_spread, self.shared_spread), 1e-9)
        effects = self.shared_spread * self.seed_law(rng, draws) + self.seed_spread * self.seed_law(rng, draws)
        low = min(effects.min(), -3 * spread)
        high = max(effects.max(), 3 * spread) + gain
        grid = np.linspace(low, high, 9)
        scores = [average_precision(world.run(self.quality + q, tastes, np.random.default_rng(run_seed))) for q in grid]
        curve = np.polynomial.Polynomial.fit(grid, scores, 4)
        return float(np.mean(curve(effects + gain) - curve(effects)))


def average_precision(table: MatchTable) -> float:
    """AP of one run."""
    return float(replicate_metrics(table).summary["AP"][0])


@dataclass(frozen=True, eq=False)
class _World:
    """Images with their boxes."""

    task: SimulatedTask
    image: np.ndarray
    """int64 [G]."""
    kind: np.ndarray
    """int64 [G], the class."""
    ease: np.ndarray
    """float64 [G]."""

    @classmethod
    def draw(cls, task: SimulatedTask, rng: np.random.Generator) -> _World:
        image = np.repeat(np.arange(task.images), rng.poisson(task.boxes_per_image, task.images))
        of_image = 0.7 * rng.standard_normal(task.images)
        return cls(task, image, rng.integers(task.classes, size=len(image)), of_image[image] + rng.standard_normal(len(image)))

    def run(self, quality: float, tastes: np.ndarray, rng: np.random.Generator) -> MatchTable:
        """The matches of one training run."""
        task, boxes = self.task, len(self.image)
        strength = quality + self.ease + tastes + task.run_noise * rng.standard_normal(boxes)
        found = rng.logistic(size=boxes) < strength + 1
        overlap = 1 - 0.3 * np.exp(-0.35 * strength + 0.5 * rng.standard_normal(boxes))
        score = 0.8 * strength + rng.standard_normal(boxes)
        false = rng.poisson(task.background_per_image * task.images)
        image = np.concatenate([self.image[found], rng.integers(task.images, size=false)])
        kind = np.concatenate([self.kind[found], rng.integers(task.classes, size=false)])
        overlaps = np.concatenate([overlap[found], np.zeros(false)])
        scores = np.concatenate([score[found], rng.standard_normal(false) * 1.2 - 0.5])
        return self._table(image, kind, overlaps, scores)

    def _table(self, image: np.ndarray, kind: np.ndarray, overlap: np.ndarray, score: np.ndarray) -> MatchTable:
        order = np.lexsort((image, -score, kind))
        thresholds = np.array(self.task.thresholds)
        matched = overlap[order][None, None] >= thresholds[:, None]
        classes = np.arange(self.task.classes)
        return MatchTable.from_arrays(
            matched=matched,
            ignored=np.zeros_like(matched),
            image_ids=np.arange(self.task.images),
            category_ids=classes,
            category_names=tuple(f"class {k}" for k in classes),
            max_detections=100,
            class_starts=np.searchsorted(kind[order], np.arange(self.task.classes + 1)),
            image=image[order].astype(np.int32),
            score=score[order],
            rank=np.zeros(len(order), dtype=np.int32),
            row=order,
            truth_image=self.image.astype(np.int32),
            truth_class=self.kind.astype(np.int32),
            truth_counted=np.ones((1, len(self.image)), dtype=bool),
            iou_thresholds=thresholds,
            area_names=("all",),
        )
