"""What the fusion operators of each arm decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from fusion_det.compare.insight.gather import Insights
from fusion_det.compare.report.page import Cell, Chart, Column, Section, Table
from fusion_det.compare.report.svg import LETTER, WIDTH, colour, drawing, element, group, label
from fusion_det.compare.report.words import listed, reasons, shortened

_MOST_BARS = 24
_SIZES = ("small", "medium", "large")


def decisions_section(places: Mapping[str, int], insights: Insights) -> Section | None:
    """A summary of all arms; bars and a table of every arm whose operators decide something."""
    found = insights.decisions
    if not found.arms and not found.why:
        return None
    lead: list[str] = []
    deciding = {arm: [site for site in result["sites"] if site["weights"] is not None] for arm, result in found.arms.items()}
    if found.arms:
        number = max(result["pictures"] for result in found.arms.values())
        seed = "" if insights.seed is None else f" of seed {insights.seed}"
        lead.append(
            f"One trained detector per arm{seed}, on {number} validation pictures: the weight that each operator gives to its inputs, mean "
            "over pictures and positions. A large weight on small values may add little: weights are what was decided, not what it does."
        )
        if idle := [arm for arm, sites in deciding.items() if not sites]:
            lead.append(f"Nothing is decided in {listed(idle)}: the operators there do not weigh their inputs.")
    lead += reasons("fusions", found.why)
    charts = tuple(Chart(_bars(arm, places[arm], sites), _caption(arm, sites)) for arm, sites in deciding.items() if sites)
    tables = [_summary(places, found.arms)] if found.arms else []
    tables += [_table(arm, sites) for arm, sites in deciding.items() if sites]
    return Section("fusions", "What the fusions decided", tuple(lead), charts, tables=tuple(tables))


def _summary(places: Mapping[str, int], arms: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = (
        Column("arm"), Column("operators"), Column("nodes", "number"), Column("share of the own input", "number"),
        Column("entropy", "number"), Column("dead inputs", "long"),
    )  # fmt: skip
    rows = []
    for arm, result in arms.items():
        sites = [site for site in result["sites"] if site["weights"] is not None]
        operators = listed(list(dict.fromkeys(site["operator"] for site in result["sites"])), 3) or "none"
        dead = [f"{name} at {site['name']}" for site in sites for name in site["dead"]]
        own = _mean([site["shares"][0] for site in sites])
        entropy = _mean([site["entropy"] for site in sites])
        nodes = Cell(str(len(result["sites"])), note=f"{len(sites)} decide")
        rows.append((Cell(arm, arm=places[arm]), Cell(operators), nodes, Cell(own), Cell(entropy), Cell(listed(dead, 4) or "-")))
    note = (
        "Own input: the map of the node's level; 1 / inputs is an equal share. Entropy 1: all inputs count the same; 0: one takes "
        "all. Dead: never more than a thousandth of the node's average weight, anywhere."
    )
    return Table(columns, tuple(rows), "Decisions of all nodes, means", note)


def _mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.2f}" if values else "-"


def _table(arm: str, sites: list[Mapping[str, Any]]) -> Table:
    present = [size for size in _SIZES if any(size in (site["sizes"] or {}) for site in sites)]
    columns = (
        Column("node"),
        Column("input"),
        Column("weight", "number"),
        Column("largest at", "number"),
        *(Column(s, "number") for s in present),
    )
    rows = []
    for site in sites:
        for i, name in enumerate(site["inputs"]):
            wins = "-" if site["wins"] is None else f"{100 * site['wins'][i]:.0f} %"
            sizes = [Cell(f"{site['sizes'][s][i]:.3f}" if s in (site["sizes"] or {}) else "-") for s in present]
            weight = Cell(f"{site['weights'][i]:.3f}", note="dead" if name in site["dead"] else "")
            rows.append(
                (Cell(site["name"] if i == 0 else "", note=site["operator"] if i == 0 else ""), Cell(name), weight, Cell(wins), *sizes)
            )
    note = "Largest at: share of the positions where this input has the largest weight."
    note += " By size: mean weight over the positions that objects of that size touch." if present else ""
    return Table(columns, tuple(rows), f"Every node of {arm}", note, folded=True)


def _caption(arm: str, sites: list[Mapping[str, Any]]) -> str:
    left = f", the first {_MOST_BARS} of {len(sites)} nodes" if len(sites) > _MOST_BARS else ""
    return f"{arm}: shares of the inputs in the weight of each node{left}; numbers are in the table."


def _bars(arm: str, place: int, sites: list[Mapping[str, Any]]) -> Markup:
    """A bar per node, cut into the shares of its inputs, the own one first and darkest."""
    row, left = 24, 118
    parts: list[Markup] = []
    for number, site in enumerate(sites[:_MOST_BARS]):
        top, start = number * row + 4, float(left)
        parts.append(label(4, top + 13, shortened(site["name"].removeprefix("neck/"), 15), "name", hint=site["name"]))
        for i, (name, share) in enumerate(zip(site["inputs"], site["shares"], strict=True)):
            width = share * (WIDTH - 4 - left)
            hint = f"{site['name']}: {name} {100 * share:.0f} %{' (dead)' if name in site['dead'] else ''}"
            box = element(
                "rect", x=start, y=float(top), width=width, height=18.0, class_="share", opacity=f"{max(0.15, 0.75 - 0.2 * i):.2f}"
            )
            parts.append(group(colour(place), box, hint=hint))
            if width > LETTER * len(name) + 4:
                parts.append(label(start + 4, top + 13, name, "halo", hint=hint))
            start += width
    return drawing(min(len(sites), _MOST_BARS) * row + 6, f"Shares of the inputs at the nodes of {arm}", *parts)
