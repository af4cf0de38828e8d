"""Annotations for the YAML keys of components; the checker and the reader of a class see the same words.

Use them on keyword-only parameters: ``def __init__(self, levels, *, dropout: Probability = 0.0)``. Pydantic's own
``PositiveInt``, ``NonNegativeInt``, ``PositiveFloat`` and ``NonNegativeFloat`` serve as well.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

__all__ = [
    "AspectRatios",
    "ImageSize",
    "Momentum",
    "NonNegativeFloat",
    "NonNegativeInt",
    "OpenUnitInterval",
    "PositiveFloat",
    "PositiveInt",
    "Probability",
    "Strides",
    "UnitInterval",
]

Probability = Annotated[float, Field(ge=0, le=1)]
"""How often something happens, 0 to 1."""
UnitInterval = Annotated[float, Field(ge=0, le=1)]
"""A threshold or share, 0 to 1, both included."""
OpenUnitInterval = Annotated[float, Field(gt=0, lt=1)]
"""A number strictly between 0 and 1, such as the prior probability of a focal loss."""
Momentum = Annotated[float, Field(ge=0, lt=1)]
"""A running average's memory: 0 remembers nothing, 1 would never learn."""
Strides = Annotated[list[PositiveInt], Field(min_length=1)]
"""Strides of levels in input pixels, fine to coarse."""
AspectRatios = Annotated[list[PositiveFloat], Field(min_length=1)]
"""Height / width of anchors."""
ImageSize = Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]
"""Height and width in pixels."""
