"""The parts of a report that explain a difference: learning curves, classes, IoU, types of errors, pyramid levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fusion_det.compare.outcome import Outcome
from fusion_det.compare.report.charts import Band, forest
from fusion_det.compare.report.curve_charts import Bar, Line, bar_chart, line_chart
from fusion_det.compare.report.explain import Explained, Gain
from fusion_det.compare.report.page import Cell, Chart, Column, Section, Table, text
from fusion_det.compare.report.words import percent, probability, signed, span
from fusion_det.compare.results import ClassDifference, Comparison
from fusion_det.evaluation.error_types import ERROR_TYPES
from fusion_det.evaluation.levels import SIZES

_SHOWN_CLASSES = 12
_ERRORS = {
    "classification": "right place, wrong class", "localisation": "right class, poor box", "both": "wrong class and poor box",
    "duplicate": "a box found twice", "background": "nothing is there", "missed": "an object that nothing found",
}  # fmt: skip


def curve_section(outcome: Outcome, places: Mapping[str, int]) -> Section | None:
    """AP over training, where the runs evaluated more than once."""
    tag = f"val/{outcome.metric}"
    lines, rows = [], []
    for arm in places:
        courses = [{line["step"]: line[tag] for line in run.history if _is_number(line.get(tag))} for run in outcome.of_arm(arm)]
        courses = [course for course in courses if course]
        shared = sorted(set.intersection(*(set(course) for course in courses))) if courses else []
        if len(shared) > 1:
            values = np.array([[course[step] for step in shared] for course in courses])
            stats = zip(shared, values.mean(axis=0), values.min(axis=0), values.max(axis=0), strict=True)
            points = tuple((float(step), 100 * float(m), 100 * float(low), 100 * float(high)) for step, m, low, high in stats)
            lines.append(Line(arm, places[arm], points))
            rows.append((Cell(arm, arm=places[arm]), *text(str(len(courses)), *(f"{points[i][1]:.2f}" for i in _quarters(len(points))))))
    if not lines:
        return None
    drawn = line_chart(lines, f"{outcome.metric} over training", "training step", f"{outcome.metric} x 100")
    caption = f"{outcome.metric} over training: mean over the seeds, the band from the lowest to the highest seed."
    columns = (Column("arm"), Column("runs", "number"), *(Column(name, "number") for name in ("first", "1/4", "1/2", "3/4", "last")))
    table = Table(columns, tuple(rows), f"{outcome.metric} along the evaluations, mean over the seeds", folded=True)
    return Section("curves", "Learning curves", charts=(Chart(drawn, caption),), arms=True, tables=(table,))


def _quarters(number: int) -> list[int]:
    return [round(part * (number - 1) / 4) for part in range(5)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and value == value


def class_section(outcome: Outcome, places: Mapping[str, int]) -> Section | None:
    """Differences per class, with their false-discovery adjustment."""
    found = outcome.comparison
    if found is None or not any(len(classes) > 1 for classes in found.classes.values()):
        return None
    charts, tables = [], []
    for arm, classes in found.classes.items():
        largest = sorted(sorted(classes, key=lambda c: -abs(c.difference))[:_SHOWN_CLASSES], key=lambda c: -c.difference)
        bands = [
            Band(
                c.name,
                places[arm],
                100 * c.difference,
                100 * c.interval.low,
                100 * c.interval.high,
                remark=_q(c),
                sure=c.p_value is not None,
            )
            for c in largest
        ]
        if bands:
            drawn = forest(bands, f"Differences of {arm} per class; the numbers are in the table", unit="difference in AP x 100")
            left = f", the {len(bands)} largest of {len(classes)}" if len(classes) > len(bands) else ""
            charts.append(Chart(drawn, f"{arm} against {found.baseline} per class{left}."))
        tables.append(_class_table(found, arm, classes))
    lead = (
        "Classes were not what the study set out to test: take them as hints. q is adjusted for the number of classes "
        "(Benjamini and Hochberg): of all classes with q below 0.05, about one in twenty is a false finding. "
        "The intervals are not adjusted.",
    )
    return Section("classes", "Classes", lead, tuple(charts), tables=tuple(tables))


def _q(item: ClassDifference) -> str:
    return f"q {probability(item.adjusted_p_value)}" if item.adjusted_p_value is not None else "seed noise unknown"


def _class_table(found: Comparison, arm: str, classes: tuple[ClassDifference, ...]) -> Table:
    columns = (
        Column("class"), Column("boxes", "number"), Column(found.baseline, "number"), Column(arm, "number"), Column("difference", "number"),
        Column(f"{100 * found.confidence:.0f} % interval", "number"), Column("q", "number"),
    )  # fmt: skip
    ordered = sorted(classes, key=lambda c: -c.difference)
    rows = tuple(
        text(
            c.name,
            str(c.boxes),
            percent(c.baseline),
            percent(c.arm),
            signed(c.difference),
            span(c.interval),
            probability(c.adjusted_p_value),
        )
        for c in ordered
    )
    return Table(columns, rows, f"AP per class: {arm} against {found.baseline}", folded=True)


def iou_section(outcome: Outcome, places: Mapping[str, int], explained: Explained) -> Section | None:
    """AP by IoU threshold: drawn as differences, which a chart of AP would hide."""
    if not explained.iou:
        return None
    seeds = {arm: [run.seed for run in outcome.of_arm(arm)] for arm in explained.iou}
    base = explained.iou[outcome.baseline]
    lines = []
    for arm, values in explained.iou.items():
        pairs = [(i, seeds[outcome.baseline].index(s)) for i, s in enumerate(seeds[arm]) if s in seeds[outcome.baseline]]
        if arm == outcome.baseline or not pairs:
            continue
        points = []
        for name, mine in values.items():
            steps = np.array([100 * (mine[i] - base[name][j]) for i, j in pairs])
            if np.isfinite(steps).all():
                points.append((float(name), float(steps.mean()), float(steps.min()), float(steps.max())))
        if points:
            lines.append(Line(arm, places[arm], tuple(points)))
    columns = (Column("arm"), *(Column(name, "number") for name in base))
    rows = tuple(
        (Cell(arm, arm=places[arm]), *(Cell(percent(float(np.mean(v)), 1)) for v in values.values()))
        for arm, values in explained.iou.items()
    )
    table = Table(columns, rows, "AP by IoU threshold, mean over the seeds", folded=bool(lines))
    charts: tuple[Chart, ...] = ()
    if lines:
        drawn = line_chart(lines, "Difference in AP by IoU threshold", "IoU threshold", "difference in AP x 100", zero=True)
        caption = f"Difference in AP to {outcome.baseline} by IoU threshold: mean over the paired seeds, the band from lowest to highest."
        charts = (Chart(drawn, f"{caption} A gain at high IoU only means better boxes, not more objects found."),)
    return Section("iou", "How exact the boxes are", charts=charts, arms=True, tables=(table,))


def error_section(outcome: Outcome, places: Mapping[str, int], explained: Explained) -> Section | None:
    """Types of errors as AP that would be gained."""
    if not any(explained.gains.values()):
        return None
    groups = []
    for name in ERROR_TYPES:
        gains = [(arm, values[name]) for arm, values in explained.gains.items() if name in values]
        if gains:
            groups.append((f"{name}: {_ERRORS[name]}", [_bar(arm, places[arm], gain) for arm, gain in gains]))
    whiskers = f", with intervals from {explained.resamples} resamples" if explained.resamples else ""
    drawn = bar_chart(groups, "AP gained by putting right each type of error; the numbers are in the table", "AP50 x 100 to gain")
    lead = (
        "AP at IoU 0.5 that an arm would gain if one type of error were put right (TIDE). Each type is alone, so the gains do not add up. "
        "A shorter bar is better.",
    )
    names = [name for name in ERROR_TYPES if any(name in values for values in explained.gains.values())]
    columns = (Column("arm"), Column("AP50", "number"), *(Column(name, "number") for name in names))
    rows = tuple(
        (Cell(arm, arm=places[arm]), _gain_cell(explained.ap50.get(arm)), *(_gain_cell(values.get(name)) for name in names))
        for arm, values in explained.gains.items()
    )
    changes = tuple(
        (Cell(arm, arm=places[arm]), *(_change_cell(values.get(name)) for name in ("AP", *names)))
        for arm, values in explained.gain_differences.items()
    )
    note = "" if explained.resamples else "No intervals: with so many runs or detections they would take minutes."
    tables = (
        Table(
            columns, changes, f"Difference to {outcome.baseline}: below 0 means fewer errors of that type", "Not adjusted for their number."
        ),
        Table(columns, rows, "AP x 100 to gain", note, folded=True),
    )
    return Section("errors", "Types of errors", lead, (Chart(drawn, f"AP to gain by type of error{whiskers}."),), tables=tables)


def _bar(arm: str, place: int, gain: Gain) -> Bar:
    ends = (gain.interval.low, gain.interval.high) if gain.interval else (gain.mean, gain.mean)
    return Bar(arm, place, 100 * gain.mean, 100 * ends[0], 100 * ends[1])


def _gain_cell(gain: Gain | None) -> Cell:
    return Cell("-") if gain is None else Cell(percent(gain.mean), note=_ends(gain, percent))


def _change_cell(gain: Gain | None) -> Cell:
    return Cell("-") if gain is None else Cell(signed(gain.mean), note=_ends(gain, signed))


def _ends(gain: Gain, shown: Any) -> str:
    return "" if gain.interval is None else f"{shown(gain.interval.low)} to {shown(gain.interval.high)}"


def level_section(outcome: Outcome, places: Mapping[str, int], explained: Explained) -> Section | None:
    """AP of each pyramid level alone by object size, and which share of the objects it found."""
    if not explained.levels:
        return None
    tables = []
    for arm, means in explained.levels.items():
        columns = (Column(arm), *(Column(size, "number") for size in SIZES))
        rows = tuple(
            (Cell(name), *(_level_cell(means.alone[i, j], means.found[i, j]) for j in range(len(SIZES))))
            for i, name in enumerate(means.levels)
        )
        tables.append(Table(columns, rows, arm))
    lead = (
        "AP x 100 of the detections of one level with those of all other levels left out, by object size; below it the share of "
        "the objects of that size that the level found at IoU 0.5. Means over the seeds. "
        "It shows which level does the work, not what a detector with only that level would reach.",
    )
    return Section("levels", "Pyramid levels", lead, tables=tuple(tables))


def _level_cell(alone: float, found: float) -> Cell:
    if np.isnan(alone) and np.isnan(found):
        return Cell("-")
    share = "" if np.isnan(found) else f"{100 * found:.0f} % found"
    return Cell(percent(float(alone), 1), note=share, shade=None if np.isnan(found) else min(9, int(10 * found)))
