"""The best epoch of every arm beside the last one, which the verdicts are about."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fusion_det.compare.outcome import Outcome
from fusion_det.compare.report.page import Cell, Column, Section, Table
from fusion_det.compare.report.words import percent, signed
from fusion_det.compare.run_record import RunRecord


def best_section(outcome: Outcome, places: Mapping[str, int]) -> Section | None:
    """Means over the seeds of the arms whose runs all tell their best epoch; none where every best epoch is the last."""
    rows = []
    differs = False
    for arm in places:
        runs = outcome.of_arm(arm)
        pairs = [pair for run in runs if (pair := _last_and_best(run, outcome.metric)) is not None]
        if not runs or len(pairs) < len(runs):
            continue
        last, best = np.mean(pairs, axis=0).tolist()
        differs |= best != last
        epochs = ", ".join(str((run.results.get("best") or {}).get("epoch", "?")) for run in runs)
        rows.append((Cell(arm, arm=places[arm]), Cell(percent(last)), Cell(percent(best)), Cell(signed(best - last)), Cell(epochs)))
    if not differs:
        return None
    evaluations = {len(run.history) for run in outcome.runs if run.history}
    lead = [
        "Verdicts are about the last epoch. The best one is chosen on the very pictures that it is reported on, so it flatters every arm."
    ]
    if len(evaluations) > 1:
        lead.append("The runs did not have the same number of evaluations: who had more of them had more chances.")
    metric = outcome.metric
    columns = (
        Column("arm"), Column(f"{metric}, last", "number"), Column(f"{metric}, best", "number"), Column("gain", "number"),
        Column("best epoch by seed", "long"),
    )  # fmt: skip
    return Section("best", "Last and best epoch", tuple(lead), tables=(Table(columns, tuple(rows), "Means over the seeds"),))


def _last_and_best(run: RunRecord, metric: str) -> tuple[float, float] | None:
    """Of a run that was measured as it was trained; the best epoch is the one with the best AP."""
    if run.folder != run.trained:
        return None
    best = run.results.get("best")
    summaries = (run.results.get("summary"), best.get("summary") if isinstance(best, dict) else None)
    last, top = ((summary or {}).get(metric) for summary in summaries)
    return (float(last), float(top)) if isinstance(last, int | float) and isinstance(top, int | float) else None
