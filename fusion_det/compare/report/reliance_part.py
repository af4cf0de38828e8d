"""How far each arm leans on its levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusion_det.analysis.level_reliance import CAVEAT
from fusion_det.compare.insight.gather import Insights
from fusion_det.compare.report.page import Cell, Column, Section, Table
from fusion_det.compare.report.words import percent, reasons, signed

_WHOSE = {"backbone": "what the backbone gives to the neck", "neck": "what the neck gives to the head"}
_MOST_ROWS = 40


def reliance_section(places: Mapping[str, int], insights: Insights) -> Section | None:
    """A table for the levels of the backbone and one for those of the neck."""
    found = insights.reliance
    if not found.arms and not found.why:
        return None
    lead = []
    if found.arms:
        counts = sorted({result["pictures"] for result in found.arms.values()})
        number = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
        seed = "" if insights.seed is None else f" of seed {insights.seed}"
        lead.append(
            f"One trained detector per arm{seed}, on {number} validation pictures: a level's maps replaced by their mean, and those of all "
            f"other levels; small print: by zeros. {CAVEAT[0].upper()}{CAVEAT[1:]}."
        )
    lead += reasons("levels", found.why)
    tables = tuple(_table(part, places, found.arms) for part in _WHOSE if found.arms)
    return Section("reliance", "Which levels the detectors lean on", tuple(lead), tables=tables)


def _table(part: str, places: Mapping[str, int], arms: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = (Column("arm"), Column("level"), Column("AP without it", "number"), Column("AP of it alone", "number"))
    rows = []
    for arm, result in arms.items():
        found = result[part]
        rows.append(
            (
                Cell(arm, arm=places[arm]),
                Cell("all", note=f"{result['pictures']} pictures"),
                Cell(percent(found["untouched"]["AP"], 1)),
                Cell("-"),
            )
        )
        values = {(v["action"], v["level"], v["replacement"]): v["AP"] for v in found["variants"]}
        for level in found["levels"]:
            base = found["untouched"]["AP"]
            cells = (_without(base, values, level), _alone(values, level))
            rows.append((Cell(""), Cell(level), *cells))
    caption = f"Levels of the {part}: {_WHOSE[part]}"
    return Table(
        columns,
        tuple(rows),
        caption,
        "AP x 100 and its change on these pictures, too few of them to compare arms by their AP here.",
        folded=len(rows) > _MOST_ROWS,
    )


def _without(base: float | None, values: Mapping[tuple[str, str, str], float | None], level: str) -> Cell:
    mean, zero = (values.get(("drop", level, how)) for how in ("mean", "zero"))
    change, other = (None if base is None or value is None else value - base for value in (mean, zero))
    return Cell(f"{percent(mean, 1)} ({signed(change, 1)})", note=f"zeros {signed(other, 1)}")


def _alone(values: Mapping[tuple[str, str, str], float | None], level: str) -> Cell:
    mean, zero = (values.get(("keep", level, how)) for how in ("mean", "zero"))
    return Cell("-") if mean is None else Cell(percent(mean, 1), note=f"zeros {percent(zero, 1)}")
