"""Latencies of the arms beside the baseline's, in words and as a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from fusion_det.compare.insight.looked import Looked
from fusion_det.compare.report.page import Cell, Column, Table
from fusion_det.compare.report.words import listed

_NETWORK, _FAST = "network", "fast"
_KINDS = {_NETWORK: "network", "with late fusion": "+ late fusion", _FAST: "fast"}
"""What was timed, and the heads of its columns."""


def milliseconds(baseline: str, latency: Looked) -> dict[str, float]:
    """Of the network, by arm: the baseline's median over all its measurements, and what each arm takes relative to it."""
    if not latency.arms:
        return {}
    base = _base(latency, _NETWORK)
    return {baseline: base} | {arm: base * _ratio(found[_NETWORK]) for arm, found in latency.arms.items()}


def latency_words(baseline: str, latency: Looked) -> list[str]:
    """How it was measured, and for whom it was not."""
    words = []
    if latency.arms:
        found = next(iter(latency.arms.values()))
        height, width = found["size"]
        machine = "{device}, {cores} CPU cores, torch {torch}".format(**found["machine"])
        words.append(
            f"Latency of one picture of {height} x {width} pixels on {machine}: each arm in turn with {baseline} after a warm-up, so that "
            "what else the machine does meets both alike: trust the ratios more than the milliseconds. Random weights; late fusion "
            "gets 1,000 made-up candidates."
        )
    words += [f"The latency of {arms} was not measured: {why}." for arms, why in _by_reason(latency.why)]
    slow = {arm: found["why_not_fast"] for arm, found in latency.arms.items() if _FAST not in found}
    words += [f"{arms} or {baseline} could not be made fast: {why}." for arms, why in _by_reason(slow)]
    return words or ["Latency was not measured in this study: tools/benchmark.py does that for one model."]


def _by_reason(why: Mapping[str, str]) -> list[tuple[str, str]]:
    """The arms of each reason."""
    arms: dict[str, list[str]] = {}
    for arm, reason in why.items():
        arms.setdefault(reason, []).append(arm)
    return [(listed(names), reason) for reason, names in arms.items()]


def latency_tables(baseline: str, places: Mapping[str, int], latency: Looked) -> tuple[Table, ...]:
    """One table, or none."""
    if not latency.arms:
        return ()
    memory = any(found["memory"] for found in latency.arms.values())
    kinds = [kind for kind in _KINDS if any(kind in found for found in latency.arms.values())]
    columns = [Column("arm"), *(Column(_KINDS[kind], "number") for kind in kinds), *[Column("peak memory, MiB", "number")] * memory]
    first = (Cell(baseline, arm=places[baseline]), *(_base_cell(latency, kind) for kind in kinds))
    rows: list[tuple[Cell, ...]] = [(*first, *[Cell("-")] * memory)]
    for arm, found in latency.arms.items():
        cells = [_cell(found[kind], _base(latency, kind)) if kind in found else Cell("-") for kind in kinds]
        peak = [Cell(f"{found['memory'] / 2**20:.0f}" if found["memory"] else "-")] * memory
        rows.append((Cell(arm, arm=places[arm]), *cells, *peak))
    rounds = min(found["rounds"] for found in latency.arms.values())
    note = "Network, and with late fusion: the detector as it is trained. "
    if _FAST in kinds:
        note += "Fast: its network as fast=true makes it for prediction, BatchNorm folded and on a CPU weights in oneDNN's order. "
    note += f"Medians of {rounds} or more rounds; an arm's milliseconds are its ratio to the baseline (x) times the baseline's."
    return (Table(tuple(columns), tuple(rows), "Latency, ms", note),)


def _ratio(times: Mapping[str, Any]) -> float:
    return float(times["ms"] / times["base_ms"])


def _base(latency: Looked, kind: str) -> float:
    return statistics.median(found[kind]["base_ms"] for found in latency.arms.values() if kind in found)


def _base_cell(latency: Looked, kind: str) -> Cell:
    p95 = statistics.median(found[kind]["base_p95_ms"] for found in latency.arms.values() if kind in found)
    return Cell(f"{_base(latency, kind):.1f}", note=f"p95 {p95:.1f}")


def _cell(times: Mapping[str, Any], base: float) -> Cell:
    scale = base / times["base_ms"]
    return Cell(f"{times['ms'] * scale:.1f}", note=f"{_ratio(times):.2f} x; p95 {times['p95_ms'] * scale:.1f}")
