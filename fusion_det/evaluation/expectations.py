"""A result that must hold: ``expect.AP=[0.35,0.02]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_det.errors import ExpectationError, raise_all
from fusion_det.evaluation.box_metrics import BoxMetrics


def check_expectations(metrics: BoxMetrics, expect: Mapping[Any, tuple[float, float]]) -> None:
    """Raise ``ExpectationError`` for every metric of ``expect`` that lies outside its (value, tolerance)."""
    outside = []
    for name, (value, tolerance) in expect.items():
        found = metrics.summary[name]
        if found is None or abs(found - value) > tolerance:
            shown = "undefined" if found is None else f"{found:.4f}"
            outside.append(ExpectationError(f"{name} is {shown}, expected {value} +- {tolerance}", where=f"eval.expect.{name}"))
    raise_all(outside)
