"""All runs as they are, and the metrics besides the one that the verdicts are about."""

from __future__ import annotations

from fusion_det.compare.estimates import Estimate
from fusion_det.compare.outcome import Outcome
from fusion_det.compare.report.curve_charts import Bar, bar_chart
from fusion_det.compare.report.page import Cell, Chart, Column, Section, Table, text
from fusion_det.compare.report.words import counted, percent, plain_span, signed, span, with_deviation


def raw_section(outcome: Outcome, places: dict[str, int]) -> Section:
    """Every run as it is, failed ones too; nothing is averaged."""
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
    columns = (
        Column("arm"),
        Column("seed", "number"),
        Column("state"),
        *(Column(n, "number") for n in names),
        Column("minutes", "number"),
        Column("folder", "long"),
    )
    rows = []
    for run in outcome.runs:
        summary = run.results.get("summary") or {}
        minutes = "-" if run.seconds is None else f"{run.seconds / 60:.1f}"
        place = outcome.short(run.folder or run.predictions) or ""
        cells = text(str(run.seed), "done", *(percent(summary.get(n)) for n in names), minutes, place)
        rows.append((Cell(run.arm, arm=places[run.arm]), *cells))
    for failure in outcome.failures:
        state = Cell(failure.status, style="bad")
        empty = text(*["-"] * (len(names) + 1))
        rows.append(
            (Cell(failure.arm, arm=places[failure.arm]), Cell(str(failure.seed)), state, *empty, Cell(outcome.short(failure.log) or ""))
        )
    lead = (
        f"{counted(len(outcome.runs), 'finished run')}, {len(outcome.failures)} not finished. Numbers are what each run itself measured.",
    )
    return Section("runs", "Runs", lead, tables=(Table(columns, tuple(rows), "Every run", folded=outcome.comparison is not None),))


def metric_section(outcome: Outcome, places: dict[str, int]) -> Section | None:
    """AP50, AP75 and the sizes."""
    found = outcome.comparison
    if found is None:
        return None
    sizes = {"APs": "small objects (APs)", "APm": "medium objects (APm)", "APl": "large objects (APl)"}
    defined = [m for m in next(iter(found.arms.values())) if any(values[m] is not None for values in found.arms.values())]
    groups = [
        (title, [_bar(arm, places[arm], e) for arm, values in found.arms.items() if (e := values[metric])])
        for metric, title in sizes.items()
        if metric in defined
    ]
    charts: tuple[Chart, ...] = ()
    if groups:
        drawn = bar_chart(groups, "AP by size of the objects; the numbers are in the table", "AP x 100")
        charts = (Chart(drawn, f"AP by object size with {100 * found.confidence:.0f} % intervals."),)
    means = tuple((Cell(arm, arm=places[arm]), *(Cell(*_mean_cell(values[m])) for m in defined)) for arm, values in found.arms.items())
    changes = tuple(
        (Cell(arm, arm=places[arm]), *(Cell(signed(d.estimate), note=span(d.interval)) if (d := values[m]) else Cell("-") for m in defined))
        for arm, values in found.differences.items()
    )
    columns = (Column("arm"), *(Column(m, "number") for m in defined))
    absent = [m for m in sizes if m not in defined]
    lead = (f"Not defined on these images: {', '.join(absent)}.",) if absent else ()
    note = f"Only {found.primary} was tested; these intervals are not adjusted for the number of metrics."
    tables = (
        Table(columns, changes, f"Difference to {found.baseline} with interval", note),
        Table(columns, means, "Mean with interval", folded=True),
    )
    return Section("sizes", "Object sizes and other metrics", lead, charts, tables=tables)


def _mean_cell(estimate: Estimate | None) -> tuple[str, str]:
    return ("-", "") if estimate is None else (with_deviation(estimate.estimate, estimate.seed_deviation), plain_span(estimate.interval))


def _bar(arm: str, place: int, estimate: Estimate) -> Bar:
    return Bar(arm, place, 100 * estimate.estimate, 100 * estimate.interval.low, 100 * estimate.interval.high)
