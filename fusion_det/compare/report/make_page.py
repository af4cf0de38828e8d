"""From an outcome to the page of its report."""

from __future__ import annotations

from collections.abc import Mapping

from fusion_det.compare.insight.gather import Insights
from fusion_det.compare.outcome import Outcome
from fusion_det.compare.report.arm_cost import ArmCost
from fusion_det.compare.report.best_part import best_section
from fusion_det.compare.report.cost_part import cost_section
from fusion_det.compare.report.decisions_part import decisions_section
from fusion_det.compare.report.explain import Explained
from fusion_det.compare.report.explain_part import class_section, curve_section, error_section, iou_section, level_section
from fusion_det.compare.report.gallery_part import gallery_section
from fusion_det.compare.report.metric_part import metric_section, raw_section
from fusion_det.compare.report.page import Page
from fusion_det.compare.report.reliance_part import reliance_section
from fusion_det.compare.report.study_part import (
    environment_section,
    fairness_section,
    glossary_section,
    note_section,
    notices,
    repeat_section,
)
from fusion_det.compare.report.verdict_part import answers, difference_section, verdict_section
from fusion_det.compare.report.words import counted, percent


def make_page(outcome: Outcome, explained: Explained, costs: Mapping[str, ArmCost], insights: Insights) -> Page:
    """Everything that the report says, in its order."""
    arms = tuple(dict.fromkeys([outcome.baseline, *outcome.arms, *(run.arm for run in outcome.runs), *(f.arm for f in outcome.failures)]))
    places = {arm: place for place, arm in enumerate(arms)}
    sections = (
        verdict_section(outcome, places),
        difference_section(outcome, places),
        cost_section(outcome, places, costs, insights.latency),
        curve_section(outcome, places),
        best_section(outcome, places),
        metric_section(outcome, places),
        class_section(outcome, places),
        iou_section(outcome, places, explained),
        error_section(outcome, places, explained),
        gallery_section(outcome.baseline, places, insights.gallery),
        level_section(outcome, places, explained),
        reliance_section(places, insights),
        decisions_section(places, insights),
        fairness_section(outcome),
        raw_section(outcome, places),
        note_section(outcome),
        environment_section(outcome),
        repeat_section(outcome),
        glossary_section(),
    )
    others = [arm for arm in arms if arm != outcome.baseline]
    return Page(
        title=outcome.name,
        question=f"Is {' or '.join(others[:6]) or 'another arm'} better than {outcome.baseline}?" if len(others) < 7
        else f"Is any of {len(others)} arms better than {outcome.baseline}?",
        facts=tuple(_facts(outcome)),
        arms=arms,
        notices=tuple(notices(outcome)),
        answers=tuple(answers(outcome, places)),
        sections=tuple(section for section in sections if section is not None),
    )  # fmt: skip


def _facts(outcome: Outcome) -> list[tuple[str, str]]:
    """The study in a line."""
    seeds = {run.seed for run in outcome.runs} | {failure.seed for failure in outcome.failures}
    facts = [
        ("arms", str(len({*outcome.arms, *(run.arm for run in outcome.runs)}))),
        ("seeds", str(len(seeds))),
        ("finished", counted(len(outcome.runs), "run")),
    ]
    if outcome.failures:
        facts.append(("not finished", counted(len(outcome.failures), "run")))
    if outcome.budget:
        facts.append(("budget", outcome.budget))
    if outcome.comparison is not None:
        facts += [
            ("test images", str(outcome.comparison.images)),
            ("margin", f"±{percent(outcome.comparison.margin)} {outcome.comparison.primary}"),
        ]
    return facts
