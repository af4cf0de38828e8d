"""The first part of a report: answers, verdicts, the forest plot, the seeds and all intervals."""

from __future__ import annotations

from fusion_det.compare.estimates import Estimate
from fusion_det.compare.outcome import Outcome
from fusion_det.compare.report.charts import Band, Dots, forest, seed_dots
from fusion_det.compare.report.page import Answer, Cell, Chart, Column, Section, Style, Table, text
from fusion_det.compare.report.words import (
    SIGNS,
    STYLES,
    own_words,
    percent,
    probability,
    signed,
    span,
    with_deviation,
)
from fusion_det.compare.results import Comparison
from fusion_det.compare.verdicts import Verdict


def word_of(comparison: Comparison, arm: str) -> str:
    """The word for ``arm`` as all reports print it."""
    if arm == comparison.baseline:
        return "baseline"
    verdict = comparison.verdicts.get(arm)
    return "not defined" if verdict is None else verdict.word


def answers(outcome: Outcome, places: dict[str, int]) -> list[Answer]:
    """One sentence per arm."""
    found = outcome.comparison
    if found is None:
        return []
    return [
        Answer(arm, places[arm], word_of(found, arm), STYLES.get(word_of(found, arm), "none"), _sentence(found, arm))
        for arm in found.differences
    ]


def _sentence(found: Comparison, arm: str) -> str:
    difference, verdict = found.differences[arm].get(found.primary), found.verdicts.get(arm)
    if difference is None or verdict is None:
        return f"{arm}: {found.primary} is not defined here, so there is nothing to compare."
    size = f"{signed(difference.estimate)} {found.primary}"
    interval = f"{100 * found.confidence:.0f} % interval {span(difference.interval)}"
    p = f", adjusted p {probability(verdict.adjusted_p_value)}" if verdict.adjusted_p_value is not None else ""
    base = found.baseline
    match verdict.word:
        case "better" | "worse":
            small = f" The difference lies inside the margin of {percent(found.margin)}." if verdict.within_margin else ""
            return f"{arm} is {verdict.word} than {base}: {size} ({interval}{p}).{small}"
        case "same":
            return f"{arm} is the same as {base} within ±{percent(found.margin)}: {size} ({interval}{p})."
        case "cannot tell":
            return f"This study cannot tell whether {arm} is better than {base}: {size} ({interval}{p}). {_needed(verdict, found)}".rstrip()
        case _:
            return f"No verdict on {arm}: {verdict.reason}. Seen here: {size} against {base}, which proves nothing."


def _needed(verdict: Verdict, found: Comparison) -> str:
    if not found.margin:
        return ""
    what = f"find a difference of {percent(found.margin)}"
    if verdict.seeds_needed:
        return f"{verdict.seeds_needed} seeds would {what}."
    return f"It takes more test images: more seeds alone would not {what}."


def verdict_section(outcome: Outcome, places: dict[str, int]) -> Section | None:
    """The verdict table, or nothing if there was no comparison."""
    found = outcome.comparison
    if found is None:
        return None
    columns = (
        Column("arm"), Column("verdict"), Column("difference", "number"), Column(f"{100 * found.confidence:.0f} % interval", "number"),
        Column("adjusted p", "number"), Column(f"{found.primary} ± sd", "number"), Column("seeds", "number"), Column("why", "long"),
    )  # fmt: skip
    rows = tuple(_row(outcome, found, arm, places[arm]) for arm in found.arms)
    lead = (
        f"{found.primary} x 100 against {found.baseline} on {found.images} test images; differences are paired by seed. "
        f"A verdict holds for all arms together at {100 * found.confidence:.0f} % (Holm); differences inside ±{percent(found.margin)} "
        "were declared too small to matter.",
    )
    note = (
        "The interval contains both sources of noise, training seeds and test images; the reason quotes it widened for the number of arms, "
        "which decides. ± sd: standard deviation between training seeds."
    )
    return Section("verdicts", "Verdicts", lead, tables=(Table(columns, rows, f"{found.primary} of every arm and its verdict", note),))


def _row(outcome: Outcome, found: Comparison, arm: str, place: int) -> tuple[Cell, ...]:
    mean, difference = found.arms[arm][found.primary], found.differences.get(arm, {}).get(found.primary)
    verdict, word = found.verdicts.get(arm), word_of(found, arm)
    style: Style = "base" if word == "baseline" else STYLES.get(word, "none")
    value = "-" if mean is None else with_deviation(mean.estimate, mean.seed_deviation)
    paired = f"{len(difference.seeds)} paired" if difference and len(difference.seeds) != len(found.seeds[arm]) else ""
    shown = word if verdict is None else f"{SIGNS[word]} {word}"
    return (
        Cell(arm, note=" ".join(own_words(outcome.arms).get(arm, ())), arm=place),
        Cell(shown, style=style),
        Cell(signed(difference.estimate) if difference else ""),
        Cell(span(difference.interval) if difference else ""),
        Cell(probability(verdict.adjusted_p_value) if verdict else ""),
        Cell(value, note="sd unknown" if mean is not None and mean.seed_deviation is None else ""),
        Cell(str(len(found.seeds[arm])), note=paired),
        Cell(verdict.reason if verdict else "the others are compared with it" if word == "baseline" else f"{found.primary} is not defined"),
    )


def difference_section(outcome: Outcome, places: dict[str, int]) -> Section | None:
    """Forest plot and dots of the seeds."""
    found = outcome.comparison
    if found is None:
        return None
    metric = found.primary
    charts = []
    bands = [
        Band(
            arm, places[arm], 100 * d.estimate, 100 * d.interval.low, 100 * d.interval.high,
            outer=(100 * v.interval.low, 100 * v.interval.high) if v else None,
            remark=f"{SIGNS[word_of(found, arm)]} {word_of(found, arm)}", sure=d.seed_deviation is not None,
        )
        for arm, values in found.differences.items() if (d := values[metric]) is not None and ((v := found.verdicts.get(arm)) or True)
    ]  # fmt: skip
    if bands:
        caption = f"Difference in {metric} to {found.baseline}. Thick: {100 * found.confidence:.0f} % interval"
        caption += "; thin: widened for the number of arms, which decides" if any(b.outer != (b.low, b.high) for b in bands) else ""
        caption += f"; grey: the margin of ±{percent(found.margin)}" if found.margin else ""
        caption += ". Dashed: test images only, the noise of training is unknown" if not all(b.sure for b in bands) else ""
        told = "; ".join(f"{b.name} {b.value:+.2f} ({b.low:+.2f} to {b.high:+.2f})" for b in bands)
        drawn = forest(bands, f"Forest plot: {told}", margin=100 * found.margin or None, unit=f"difference in {metric} x 100")
        charts.append(Chart(drawn, f"{caption}."))
    dots = [
        Dots(arm, places[arm], tuple((s, 100 * v) for s, v in zip(e.seeds, e.values, strict=True)), 100 * e.estimate)
        for arm, values in found.arms.items() if (e := values[metric]) is not None
    ]  # fmt: skip
    if dots:
        told = "; ".join(f"{d.name} {', '.join(f'{v:.2f}' for _, v in d.values)}" for d in dots)
        drawn = seed_dots(dots, f"{metric} of every seed: {told}", f"{metric} x 100")
        caption = f"{metric} of every training run. Bars: means. Thin lines join the runs of one seed, which are paired."
        charts.append(Chart(drawn, caption))
    return Section("differences", "Differences", charts=tuple(charts), tables=(_seed_table(found, places), _interval_table(found, places)))


def _seed_table(found: Comparison, places: dict[str, int]) -> Table:
    seeds = list(dict.fromkeys(seed for names in found.seeds.values() for seed in names))
    rows = []
    for arm, values in found.arms.items():
        estimate = values[found.primary]
        by_seed = dict(zip(estimate.seeds, estimate.values, strict=True)) if estimate else {}
        rows.append((Cell(arm, arm=places[arm]), *(Cell(percent(by_seed.get(seed))) for seed in seeds)))
    columns = (Column("arm"), *(Column(f"seed {seed}", "number") for seed in seeds))
    return Table(columns, tuple(rows), f"{found.primary} of every run", folded=True)


def _interval_table(found: Comparison, places: dict[str, int]) -> Table:
    """Every interval of the difference, as a cross-check."""
    columns = (
        Column("arm"), Column("difference", "number"), Column("both sources", "number"), Column("seeds only (t)", "number"),
        Column("images only", "number"), Column("plain percentiles", "number"), Column("BCa", "number"),
        Column("seeds' share of variance", "number"), Column("p", "number"),
    )  # fmt: skip
    rows = []
    for arm, values in found.differences.items():
        d: Estimate | None = values[found.primary]
        if d is not None:
            numbers = (
                signed(d.estimate),
                *map(span, (d.interval, d.seed_interval, d.image_interval, d.percentile_interval, d.bca_interval)),
            )
            rows.append((Cell(arm, arm=places[arm]), *text(*numbers, f"{100 * d.seed_share:.0f} %", probability(d.p_value))))
    note = "Both sources is the interval that counts. The others are cross-checks: each leaves something out."
    return Table(columns, tuple(rows), f"Every interval of the difference in {found.primary}", note, folded=True)
