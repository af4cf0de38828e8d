"""The best epoch of every arm beside the last one, which the verdicts are about."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fusion_det.compare.outcome import BestEpochs, Outcome
from fusion_det.compare.report.page import Cell, Column, Section, Table
from fusion_det.compare.report.verdict_part import word_of
from fusion_det.compare.report.words import SIGNS, STYLES, percent, probability, signed, span
from fusion_det.compare.results import Comparison
from fusion_det.compare.run_record import RunRecord

_CAPTION = "Best epochs: same split, so optimistic"


def best_section(outcome: Outcome, places: Mapping[str, int]) -> Section | None:
    """Verdicts on the best epochs, or why there are none, with the means over the seeds as far as they are known."""
    best = outcome.best
    if best is None:
        return None
    if best.last:
        return Section("best", "Best epoch", ("In every run the best epoch is the last one, so the verdicts are about both.",))
    lead = [
        "The verdicts above are about the last epoch. Here is each run's best one by AP, chosen and reported on the same split: "
        "optimistic for every arm. The verdicts above count, not these.",
    ]
    if best.comparison is None:
        lead.append(f"No verdicts on the best epochs: {best.why}.")
        tables = _means(outcome, places)
    else:
        lead += _words(outcome, best, best.comparison)
        tables = (_verdicts(outcome, best.comparison, places),)
    return Section("best", "Best epoch", tuple(lead), tables=tables)


def _words(outcome: Outcome, best: BestEpochs, found: Comparison) -> list[str]:
    words = [
        f"Every run was evaluated {best.evaluations} times, so all had the same number of chances. The intervals take the chosen epochs as "
        "given: they hold no noise of the choice."
    ]
    changed = [
        f"{arm} ({word} here, {word_of(outcome.comparison, arm)} there)"
        for arm in found.differences
        if outcome.comparison is not None and (word := word_of(found, arm)) != word_of(outcome.comparison, arm)
    ]
    return [
        *words,
        f"Verdicts that differ from those at the last epoch: {', '.join(changed)}."
        if changed
        else "No verdict differs from that at the last epoch.",
    ]


def _verdicts(outcome: Outcome, found: Comparison, places: Mapping[str, int]) -> Table:
    metric = found.primary
    columns = (
        Column("arm"), Column("verdict"), Column("difference", "number"), Column(f"{100 * found.confidence:.0f} % interval", "number"),
        Column("adjusted p", "number"), Column(f"{metric}, best", "number"), Column(f"{metric}, last", "number"),
        Column("best epoch by seed", "long"),
    )  # fmt: skip
    rows = []
    for arm, values in found.arms.items():
        mean, difference, verdict = values[metric], found.differences.get(arm, {}).get(metric), found.verdicts.get(arm)
        word = word_of(found, arm)
        last = outcome.comparison.arms[arm][metric] if outcome.comparison is not None else None
        rows.append(
            (
                Cell(arm, arm=places[arm]),
                Cell(word, style="base") if verdict is None else Cell(f"{SIGNS[word]} {word}", style=STYLES[word]),
                Cell(signed(difference.estimate) if difference else ""), Cell(span(difference.interval) if difference else ""),
                Cell(probability(verdict.adjusted_p_value) if verdict else ""),
                *_best_and_last(mean.estimate if mean else None, last.estimate if last else None), Cell(_epochs(outcome.of_arm(arm))),
            )
        )  # fmt: skip
    return Table(columns, tuple(rows), _CAPTION)


def _means(outcome: Outcome, places: Mapping[str, int]) -> tuple[Table, ...]:
    """Of the arms whose runs all tell their best epoch."""
    rows = []
    for arm in places:
        runs = outcome.of_arm(arm)
        pairs = [pair for run in runs if (pair := _last_and_best(run, outcome.metric)) is not None]
        if runs and len(pairs) == len(runs):
            last, best = np.mean(pairs, axis=0).tolist()
            rows.append((Cell(arm, arm=places[arm]), *_best_and_last(best, last), Cell(_epochs(runs))))
    if not rows:
        return ()
    metric = outcome.metric
    columns = (
        Column("arm"), Column(f"{metric}, best", "number"), Column(f"{metric}, last", "number"), Column("best epoch by seed", "long"),
    )  # fmt: skip
    return (Table(columns, tuple(rows), "Means over the seeds"),)


def _best_and_last(best: float | None, last: float | None) -> tuple[Cell, Cell]:
    gain = "" if best is None or last is None or best == last else signed(best - last)
    return Cell(percent(best), note=gain), Cell(percent(last))


def _epochs(runs: list[RunRecord]) -> str:
    return ", ".join(str((run.best or {}).get("epoch", "?")) for run in runs)


def _last_and_best(run: RunRecord, metric: str) -> tuple[float, float] | None:
    """Of a run that was measured as it was trained."""
    summaries = (run.results.get("summary"), (run.best or {}).get("summary"))
    last, top = ((summary or {}).get(metric) for summary in summaries)
    return (float(last), float(top)) if isinstance(last, int | float) and isinstance(top, int | float) else None
