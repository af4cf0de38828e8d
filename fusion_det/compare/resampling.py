"""Bootstrap resamples of images and of training seeds, as counts: how often each one was drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

_IMAGE_STREAM, _SEED_STREAM, _GROUP_STREAM = 1, 2, 3  # so that the draws of seeds do not move when the number of images changes


@dataclass(frozen=True, eq=False)
class ImageResamples:
    """R resamples of I images with replacement, the same for every run of a study; ``seed`` and ``count`` repeat them anywhere."""

    images: int
    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.images < 1 or self.count < 1 or self.seed < 0:
            raise ValueError(f"expected images and count >= 1 and seed >= 0, got {self.images}, {self.count}, {self.seed}")

    @cached_property
    def weights(self) -> np.ndarray:
        """int16 [R, I]: how often each image was drawn; each row sums to I (a multinomial draw)."""
        rng = np.random.default_rng([self.seed, _IMAGE_STREAM])
        drawn = np.empty((self.count, self.images), dtype=np.int16)
        for row in drawn:
            row[:] = np.bincount(rng.integers(self.images, size=self.images), minlength=self.images)
        return drawn


def image_groups(images: int, groups: int, seed: int) -> np.ndarray:
    """int16 [groups, images]: weights that leave out one random group of the images at a time, for a jackknife."""
    group = np.random.default_rng([seed, _GROUP_STREAM]).permutation(np.arange(images) % groups)
    return (group != np.arange(groups)[:, None]).astype(np.int16)


def seed_draws(seeds: int, count: int, seed: int) -> np.ndarray:
    """int64 [count, seeds]: how often each of ``seeds`` training seeds was drawn in each of ``count`` resamples; rows sum to ``seeds``."""
    rng = np.random.default_rng([seed, _SEED_STREAM])
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count)
