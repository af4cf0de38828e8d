"""What was counted of each arm's detector, in words and by backbone, neck and head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fusion_det.compare.report.arm_cost import ArmCost
from fusion_det.compare.report.page import Cell, Column, Table
from fusion_det.compare.report.words import listed, quantity

if TYPE_CHECKING:
    from fusion_det.analysis.cost import PartCost

_KINDS = ("parameters", "flops", "activations")
_MOST_ROWS, _MOST_NAMES = 40, 12


def counted_words(costs: Mapping[str, ArmCost]) -> list[str]:
    """The convention, what is outside the count, and for whom nothing was counted."""
    counted = {arm: cost.counted for arm, cost in costs.items() if cost.counted is not None}
    words = []
    if sizes := " or ".join(f"{height} x {width}" for height, width in sorted({found.size for found in counted.values()})):
        words.append(
            f"Counted for one picture of {sizes} pixels, from the normalised picture "
            "to candidates: FLOPs of convolutions, linear layers, matrix products and attention (1 multiply-accumulate, MAC, = 2 FLOPs; no "
            "biases), and activations, the numbers that convolutions and linear layers put out. Late fusion is not counted."
        )
    regions = {arm: found.proposals for arm, found in counted.items() if found.proposals is not None}
    words += [
        f"The head of {listed([arm for arm, number in regions.items() if number == some])} was counted at {some:,} proposals."
        for some in dict.fromkeys(regions.values())
    ]
    outside: dict[str, int] = {}
    for found in counted.values():
        for name, operation in found.uncounted.items():
            outside[name] = max(outside.get(name, 0), operation.elements)
    if outside:
        names = [f"{name} {quantity(outside[name])}" for name in sorted(outside, key=lambda name: (-outside[name], name))]
        found_names = listed(names, _MOST_NAMES)
        words.append(f"Operations that are not counted, with the numbers that they put out (the most of any arm): {found_names}.")
    reasons: dict[str, list[str]] = {}
    for arm, cost in costs.items():
        if cost.why:
            reasons.setdefault(cost.why, []).append(arm)
    return words + [f"FLOPs and activations of {listed(arms)} are unknown: {why}." for why, arms in reasons.items()]


def part_tables(baseline: str, places: Mapping[str, int], costs: Mapping[str, ArmCost]) -> tuple[Table, ...]:
    """One table with a row for each arm and, in small print, for each of its parts; or none."""
    base = costs[baseline].counted if baseline in costs else None
    rows: list[tuple[Cell, ...]] = []
    for arm, cost in costs.items():
        if (counted := cost.counted) is not None:
            rows.append((Cell(arm, arm=places[arm]), *_cells(counted.total, None if base is None else base.total)))
            rows += [
                (Cell("", note=name), *_cells(part, None if base is None else base.parts[name])) for name, part in counted.parts.items()
            ]
    if not rows:
        return ()
    columns = (Column("arm, part"), *(Column(kind, "number") for kind in ("parameters", "FLOPs", "activations")))
    note = f"Small print: against the same part of {baseline}." if base else ""
    return (Table(columns, tuple(rows), "Cost by part", note, folded=len(rows) > _MOST_ROWS),)


def _cells(own: PartCost, base: PartCost | None) -> list[Cell]:
    pairs = [(getattr(own, kind), None if base is None else getattr(base, kind)) for kind in _KINDS]
    return [Cell(quantity(value), note=relative(value, other)) for value, other in pairs]


def relative(value: int | None, base: int | None) -> str:
    """``+5.0 %``; nothing where both are the same or one is unknown or zero."""
    return f"{100 * (value / base - 1):+.1f} %" if value and base and value != base else ""
