"""The parts of a report about the study itself: notices, fairness, environment, how to repeat it, words."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusion_det.compare.fairness import ORDER, Difference
from fusion_det.compare.outcome import Outcome
from fusion_det.compare.report.page import Cell, Code, Column, Notice, Section, Style, Table, text
from fusion_det.compare.report.words import GLOSSARY, counted, listed
from fusion_det.compare.verdicts import ONE_SEED

_KINDS: dict[str, tuple[str, Style]] = {
    "fatal": ("fatal", "bad"), "suspicious": ("suspicious", "unsure"), "variable": ("under study", "base"), "allowed": ("allowed", "same"),
}  # fmt: skip
_LONGEST = 120


def is_generated(outcome: Outcome) -> bool:
    """Whether the pictures were made by a program, so that no number is about real photographs."""
    if any(".scenes" in str((run.config.get("data") or {}).get("_target_")) for run in outcome.runs):
        return True
    try:
        with Path(outcome.annotations).open("rb") as file:
            return b'"fusion_det scenes, generated' in file.read(300)
    except OSError:
        return False


def notices(outcome: Outcome) -> list[Notice]:
    """Everything that must be read before the numbers, the gravest first."""
    found = outcome.comparison
    told = []
    if is_generated(outcome):
        lines: tuple[str, ...] = (
            "The pictures are generated: this is a diagnosis of the mechanism, no evidence about COCO or any other real data.",
        )
        told.append(Notice("warning", "Generated data", lines))
    if outcome.no_verdict:
        told.append(Notice("stop", "No verdict: these runs cannot be compared", outcome.no_verdict))
    if outcome.failures:
        number = len(outcome.failures) + len(outcome.runs)
        lines = tuple(f"{f.arm}, seed {f.seed}: {f.status}: {f.message}" for f in outcome.failures[:20])
        more = (f"and {len(outcome.failures) - 20} more",) if len(outcome.failures) > 20 else ()
        title = f"{len(outcome.failures)} of {counted(number, 'run')} did not finish; they are in no number below"
        told.append(Notice("stop", title, lines + more))
    if found is not None:
        single = [arm for arm, verdict in found.verdicts.items() if verdict.word == "none" and ONE_SEED in verdict.reason]
        if single:
            what = (
                f"No verdict on {listed(single)}: one paired seed shows what the test images do, not what another training run would give."
            )
            told.append(Notice("stop", "One seed: the noise of training is unknown", (what, "Train two seeds or more per arm.")))
        if warnings := tuple(line for line in found.warnings if not (single and line.startswith(ONE_SEED))):
            told.append(Notice("warning", "Mind", warnings))
    grave = [d for d in outcome.fairness if d.kind == "suspicious"]
    if grave:
        keys = listed(list(dict.fromkeys(d.key for d in grave)), 6)
        told.append(Notice("warning", "The arms differ in more than what is under study", (f"{keys}: see the fairness sheet.",)))
    return told


def fairness_section(outcome: Outcome) -> Section:
    """What else differed."""
    if not outcome.fairness:
        lead: tuple[str, ...] = ("Nothing is known of how these predictions were made: only that they were measured alike.",)
        if any(run.config for run in outcome.runs):
            lead = ("No difference at all between the arms was found in their configs, data, environments and first weights.",)
        return Section("fairness", "Fairness sheet", lead)
    counts = {kind: sum(d.kind == kind for d in outcome.fairness) for kind in ORDER}
    lead = (
        "Every difference between any two arms, in configs, data, first weights and environments. Fatal: no verdict. Suspicious: may "
        "explain a difference as well as what is under study does.",
        ", ".join(f"{number} {_KINDS[kind][0]}" for kind, number in counts.items() if number) + ".",
    )
    grave = [d for d in outcome.fairness if d.kind in ("fatal", "suspicious")]
    other = [d for d in outcome.fairness if d.kind not in ("fatal", "suspicious")]
    tables = [_fairness_table(grave, "Fatal and suspicious differences", False)] if grave else []
    tables += [_fairness_table(other, "Differences under study, and allowed ones", True)] if other else []
    return Section("fairness", "Fairness sheet", lead, tables=tuple(tables))


def _fairness_table(sheet: list[Difference], caption: str, folded: bool) -> Table:
    """Equal differences of several pairs are one row."""
    rows: dict[tuple[str, str, str, str, str], list[str]] = {}
    for d in sheet:
        rows.setdefault((d.kind, d.key, _brief(d.values[0]), _brief(d.values[1]), d.why), []).append(f"{d.first} / {d.second}")
    columns = (
        Column("kind"),
        Column("what"),
        Column("arms", "long"),
        Column("first", "long"),
        Column("second", "long"),
        Column("why", "long"),
    )
    cells = tuple(
        (Cell(_KINDS[kind][0], style=_KINDS[kind][1]), *text(key, listed(pairs, 4), first, second, why))
        for (kind, key, first, second, why), pairs in rows.items()
    )
    return Table(columns, cells, caption, folded=folded)


def _brief(value: Any) -> str:
    shown = "not set" if value is None else value if isinstance(value, str) else repr(value)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def note_section(outcome: Outcome) -> Section | None:
    """Notes and warnings in full."""
    bullets = [*outcome.notes]
    if outcome.comparison is not None:
        bullets += outcome.comparison.warnings
        gone = outcome.comparison.vanished
        if gone.resamples:
            worst = sorted(gone.classes.items(), key=lambda item: -item[1])
            bullets.append("resamples without a class, by class: " + listed([f"{name} {number}" for name, number in worst]))
    return Section("notes", "Notes", bullets=tuple(dict.fromkeys(bullets))) if bullets else None


def environment_section(outcome: Outcome) -> Section | None:
    """Machines and versions; what differs is told with its arms."""
    facts: dict[str, dict[str, list[str]]] = {}
    for run in outcome.runs:
        environment = run.environment
        packages = environment.get("packages") or {}
        values: dict[str, Any] = {
            name: environment.get(name) for name in ("fusion_det", "commit", "python", "platform", "cpus", "world_size")
        }
        values |= {"hardware": run.start.get("hardware"), "numeric precision": run.results.get("precision")}
        values |= {"training pictures": (run.start.get("images") or {}).get("train"), "steps": run.start.get("steps")}
        values |= dict(packages) if isinstance(packages, Mapping) else {}
        for name, value in values.items():
            if value is not None:
                facts.setdefault(name, {}).setdefault(str(value), []).append(run.name)
    if not facts:
        return None
    rows = []
    for name, found in facts.items():
        total = sum(len(runs) for runs in found.values())
        told = [value if len(runs) == total else f"{value} ({listed(runs, 4)})" for value, runs in found.items()]
        rows.append(text(name, "; ".join(told)))
    return Section(
        "environment",
        "Environment",
        tables=(Table((Column("what"), Column("value", "long")), tuple(rows), "Versions and machines", folded=True),),
    )


def repeat_section(outcome: Outcome) -> Section:
    """Commands that judge the same runs again, and train them again."""
    found = outcome.comparison
    code, lead = [], []
    if found is not None:
        lead.append(
            f"{found.resamples} resamples of {found.images} test images, seed {found.resampling_seed}, the same for all runs; "
            f"margin {found.margin:g}, confidence {found.confidence:g}."
        )
        settings = f"statistics.metric={found.primary} statistics.margin={found.margin:g} statistics.confidence={found.confidence:g} "
        settings += f"statistics.resamples={found.resamples} statistics.seed={found.resampling_seed}"
        if lists := _lists(outcome):
            code.append(
                Code("Judge the same runs again", (f"python tools/compare.py {lists} baseline={shlex.quote(outcome.baseline)} {settings}",))
            )
    trained = [run for run in outcome.runs if run.words and run.folder == run.trained]
    if trained:
        lines = tuple(f"python tools/train.py {shlex.join(run.words)}" for run in trained[:60])
        code.append(Code("Train the runs again", lines))
    if not code:
        lead.append("The runs do not tell how they were made.")
    return Section("repeat", "How to repeat it", tuple(lead), code=tuple(code))


def _lists(outcome: Outcome) -> str:
    """``runs='A=a,b; B=c,d'`` or the same for files; nothing where that would not repeat the study."""
    files = all(run.folder is None for run in outcome.runs)
    if not files and any(run.folder != run.trained for run in outcome.runs):
        return ""  # arms that share a training run have no run folders of their own
    arms = dict.fromkeys(run.arm for run in outcome.runs)
    parts = []
    for arm in arms:
        paths = [outcome.short(run.predictions if files else run.folder) or "" for run in outcome.of_arm(arm)]
        parts.append(f'"{arm}"=' + ",".join(f'"{path}"' if set(path) & set(" ,;") else path for path in paths))
    listing = shlex.quote("; ".join(parts))
    return f"gt={shlex.quote(outcome.annotations)} predictions={listing}" if files else f"runs={listing}"


def glossary_section() -> Section:
    """The words."""
    return Section(
        "words",
        "Words",
        tables=(
            Table((Column("word"), Column("meaning", "long")), tuple(text(*row) for row in GLOSSARY), "What the words mean", folded=True),
        ),
    )
