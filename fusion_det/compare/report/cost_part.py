"""What the arms cost, and whether the quality is worth it."""

from __future__ import annotations

from collections.abc import Mapping

from fusion_det.compare.insight.looked import Looked
from fusion_det.compare.outcome import Outcome
from fusion_det.compare.report.arm_cost import ArmCost
from fusion_det.compare.report.charts import Point, cost_chart
from fusion_det.compare.report.counted_part import counted_words, part_tables, relative
from fusion_det.compare.report.latency_part import latency_tables, latency_words, milliseconds
from fusion_det.compare.report.page import Cell, Chart, Column, Section, Table, text
from fusion_det.compare.report.words import percent, quantity

_UNITS = {"parameters": "million parameters", "flops": "GFLOPs per picture", "latency": "ms per picture, network as trained"}


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
    lead = [*counted_words(costs), *latency_words(outcome.baseline, latency)]
    tables = (
        _table(outcome, places, costs),
        *part_tables(outcome.baseline, places, costs),
        *latency_tables(outcome.baseline, places, latency),
    )
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
        Column("activations", "number"), Column("training minutes", "number"), Column("training pictures/s", "number"),
    )  # fmt: skip
    found, base = outcome.comparison, costs.get(outcome.baseline)
    rows = []
    for arm, cost in costs.items():
        mean = found.arms[arm][found.primary] if found is not None and arm in found.arms else None
        minutes = "-" if cost.seconds is None else f"{cost.seconds / 60:.1f}"
        speed = "-" if cost.speed is None else f"{cost.speed:.0f}"
        whole = [
            Cell(quantity(own := getattr(cost, kind)), note=relative(own, None if base is None else getattr(base, kind)))
            for kind in ("parameters", "flops", "activations")
        ]
        rows.append((Cell(arm, arm=places[arm]), Cell(percent(mean.estimate if mean else None)), *whole, *text(minutes, speed)))
    note = "Training minutes (mean over the runs) and pictures/s (median over the epochs): other work on the machine slows them."
    return Table(columns, tuple(rows), "Quality and cost", note)
