"""What came of looking: plain results, or the reasons why there are none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fusion_det.errors import FusionDetError
from fusion_det.evaluation.box_metrics import printable


@dataclass(frozen=True)
class Looked:
    """One kind of measurement."""

    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Plain results by arm."""
    why: dict[str, str] = field(default_factory=dict)
    """By arm: why there is none."""


def reason_of(error: Exception) -> str:
    """One line for people."""
    words = error.lines[0] if isinstance(error, FusionDetError) else f"{type(error).__name__}: {error}"
    return printable(words.splitlines()[0])[:300] if words else type(error).__name__
