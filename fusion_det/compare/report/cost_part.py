"""What the arms cost, and whether the quality is worth it."""

from __future__ import annotations

from collections.abc import Mapping

from fusion_det.compare.insight.looked import Looked
from fusion_det.compare.outcome import Outcome
from fusion_det.compare.report.arm_cost import ArmCost
from fusion_det.compare.report.charts import Point, cost_chart
from fusion_det.compare.report.latency_part import latency_tables, latency_words, milliseconds
from fusion_det.compare.report.page import Cell, Chart, Column, Section, Table, text
from fusion_det.compare.report.words import listed, percent, quantity

_UNITS = {"parameters": "million parameters", "flops": "GFLOPs per picture", "latency": "ms per picture, network"}


def cost_section(outcome: Outcome, places: Mapping[str, int], costs: Mapping[str, ArmCost], latency: Looked) -> Section | None:
    """AP against parameters, FLOPs and latency, and the numbers."""
    if not any(cost.parameters or cost.flops or cost.seconds for cost in costs.values()):
        return None
    numbers = {
        "parameters": {arm: cost.parameters / 1e6 for arm, cost in costs.items() if cost.parameters},
        "flops": {arm: cost.flops / 1e9 for arm, cost in costs.items() if cost.flops},
        "latency": milliseconds(outcome.baseline, latency),
    }
    charts = [chart for kind, of_arm in numbers.items() if (chart := _chart(outcome, places, of_arm, _UNITS[kind])) is not None]
    reasons: dict[str, list[str]] = {}
    for arm, cost in costs.items():
        if cost.why:
            reasons.setdefault(cost.why, []).append(arm)
    sizes = {cost.size for cost in costs.values() if cost.size}
    lead = [f"FLOPs of one picture of {h} x {w} pixels, 1 multiply-accumulate = 2; late fusion is not counted." for h, w in sorted(sizes)]
    lead += [f"FLOPs of {listed(arms)} are unknown: {why}." for why, arms in reasons.items()]
    lead += latency_words(outcome.baseline, latency)
    tables = (_table(outcome, places, costs), *latency_tables(outcome.baseline, places, latency))
    return Section("cost", "Cost", tuple(lead), tuple(charts), tables=tables)


def _chart(outcome: Outcome, places: Mapping[str, int], costs: Mapping[str, float], unit: str) -> Chart | None:
    if outcome.comparison is None:
        return None
    metric = outcome.comparison.primary
    points = []
    for arm, values in outcome.comparison.arms.items():
        mean = values[metric]
        if arm in costs and mean is not None:
            points.append(Point(arm, places[arm], costs[arm], 100 * mean.estimate, 100 * mean.interval.low, 100 * mean.interval.high))
    if len({point.cost for point in points}) < 2:
        return None
    drawn = cost_chart(points, f"{metric} against {unit}; the numbers are in the table", unit, f"{metric} x 100")
    caption = f"{metric} against {unit} with {100 * outcome.comparison.confidence:.0f} % intervals of the means"
    caption += "; dashed: nothing seen here is better at that cost or less."
    return Chart(drawn, caption)


def _table(outcome: Outcome, places: Mapping[str, int], costs: Mapping[str, ArmCost]) -> Table:
    columns = (
        Column("arm"), Column(outcome.metric, "number"), Column("parameters", "number"), Column("FLOPs", "number"),
        Column("backbone", "number"), Column("neck", "number"), Column("head", "number"), Column("training minutes", "number"),
        Column("training pictures/s", "number"),
    )  # fmt: skip
    found, base = outcome.comparison, costs.get(outcome.baseline)
    rows = []
    for arm, cost in costs.items():
        mean = found.arms[arm][found.primary] if found is not None and arm in found.arms else None
        parts = [quantity(cost.parts.get(name)) for name in ("backbone", "neck", "head")]
        minutes = "-" if cost.seconds is None else f"{cost.seconds / 60:.1f}"
        speed = "-" if cost.speed is None else f"{cost.speed:.0f}"
        rows.append(
            (
                Cell(arm, arm=places[arm]), Cell(percent(mean.estimate if mean else None)),
                Cell(quantity(cost.parameters), note=_relative(cost.parameters, base.parameters if base else None)),
                Cell(quantity(cost.flops), note=_relative(cost.flops, base.flops if base else None)), *text(*parts, minutes, speed),
            )
        )  # fmt: skip
    note = "Backbone, neck and head: their part of the FLOPs. Training minutes (mean over the runs) and pictures/s (median "
    note += "over the epochs): other work on the machine slows them."
    return Table(columns, tuple(rows), "Quality and cost", note)


def _relative(value: int | None, base: int | None) -> str:
    return f"{100 * (value / base - 1):+.1f} %" if value and base and value != base else ""
