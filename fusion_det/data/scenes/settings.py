"""Everything that decides how a generated picture looks, as one frozen value, and the classes that follow from it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from fusion_det.errors import ConfigError, raise_all

FACTORS: dict[str, tuple[str, ...]] = {
    "plain": ("disk", "square", "triangle"),
    "detail": ("horizontal_stripes", "vertical_stripes", "checker"),
    "context": ("cross_red", "cross_blue"),
    "scale": ("diamond",),
    "precision": ("frame", "gap"),
}
"""What a class depends on -> its classes. The factor is written as COCO ``supercategory``, so that reports can group by it."""

FRAME_LINE = 1
"""Thickness of a ``frame`` in px; ``gap_margin`` must lie above it, since thickness is what tells a gap from a frame."""

_RANGES = ("objects", "plain_size", "detail_size", "stripe_width", "cross_size", "cue_size", "cue_distance", "scale_size", "precision_size")


@dataclass(frozen=True)
class SceneSettings:
    """Knobs of the generator; ``configs/data/scenes.yaml`` gives each its value and meaning. Sizes and distances are in px.

    Raises:
        ConfigError: values that cannot be drawn, all of them at once.
    """

    image_size: int
    seed: int
    objects: tuple[int, int]
    empty_share: float
    crowd_share: float
    plain: float
    detail: float
    context: float
    scale: float
    precision: float
    plain_size: tuple[int, int]
    detail_size: tuple[int, int]
    stripe_width: tuple[int, int]
    cross_size: tuple[int, int]
    cue_size: tuple[int, int]
    cue_distance: tuple[int, int]
    cues: int
    scale_size: tuple[int, int]
    precision_size: tuple[int, int]
    gap_margin: tuple[int, int]
    spacing: int
    clutter: int
    noise: int

    def __post_init__(self) -> None:
        for key in (*_RANGES, "gap_margin"):
            low, high = getattr(self, key)
            object.__setattr__(self, key, (int(low), int(high)))  # a list from YAML becomes a tuple: hashable, and one digest
        raise_all(list(self._faults()))

    @property
    def factors(self) -> tuple[str, ...]:
        """Factors that are drawn at all, in the order of ``FACTORS``."""
        return tuple(factor for factor in FACTORS if getattr(self, factor) > 0)

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of the objects of each of :attr:`factors`, summing to 1."""
        weights = [getattr(self, factor) for factor in self.factors]
        return tuple(weight / sum(weights) for weight in weights)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(name for factor in self.factors for name in FACTORS[factor])

    def categories(self) -> list[dict[str, Any]]:
        """COCO categories: ids from 1 in label order, the factor as ``supercategory``."""
        pairs = [(name, factor) for factor in self.factors for name in FACTORS[factor]]
        return [{"id": label + 1, "name": name, "supercategory": factor} for label, (name, factor) in enumerate(pairs)]

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, fit for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def _faults(self) -> Iterator[ConfigError]:
        for key in (*_RANGES, "gap_margin"):
            low, high = getattr(self, key)
            if low > high:
                yield ConfigError(f"a range must rise, got [{low}, {high}]", where=f"data.{key}", mend=f"{key}: [{high}, {low}]")
        if not any(getattr(self, factor) > 0 for factor in FACTORS):
            yield ConfigError("every factor has share 0", where="data", mend=f"give one of {', '.join(FACTORS)} a share above 0")
        yield from self._size_faults()
        if self.context > 0 and self.cue_distance[0] > self.image_size * math.sqrt(2) - 2 * self.cross_size[1]:
            yield ConfigError(
                f"no cross of {self.image_size} px pictures lies {self.cue_distance[0]} px from its cue",
                where="data.cue_distance",
                mend=f"start below {self.image_size} px",
            )
        if self.crowd_share > 0 and self.plain == 0:
            yield ConfigError("crowds are made of plain objects, which have share 0", where="data.crowd_share", mend="0, or plain above 0")
        if self.gap_margin[0] <= FRAME_LINE:
            yield ConfigError(
                f"a gap needs a margin above {FRAME_LINE} px, or nobody can tell it from a frame",
                where="data.gap_margin",
                mend=f"start at {FRAME_LINE + 2}",
            )
        if self.noise > 60:
            yield ConfigError("noise above 60 grey levels drowns the objects", where="data.noise", mend="60 or less")

    def _size_faults(self) -> Iterator[ConfigError]:
        for factor, key, least in (
            ("plain", "plain_size", 4),
            ("detail", "detail_size", 4 * self.stripe_width[1]),
            ("context", "cross_size", 5),
            ("context", "cue_size", 4),
            ("scale", "scale_size", 4),
            ("precision", "precision_size", 4),
        ):
            if getattr(self, factor) == 0:
                continue
            low, high = getattr(self, key)
            if low < least:
                yield ConfigError(f"smallest size {low} px shows no class", where=f"data.{key}", mend=f"start at {least} or more")
            if high > 0.75 * self.image_size:
                most = int(0.75 * self.image_size)
                yield ConfigError(f"largest size {high} px leaves no room", where=f"data.{key}", mend=f"end at {most} (3/4 of image_size)")
