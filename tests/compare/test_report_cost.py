"""What the arms cost, in the report and its files: as counted, by part, with what is not in the count."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import report_cases as cases
from tiny_checkpoint import tiny_state

from fusion_det.analysis.cost import Cost, cost_of
from fusion_det.compare.insight.looked import Looked
from fusion_det.compare.outcome import Outcome
from fusion_det.compare.report.arm_cost import ArmCost, costs_of
from fusion_det.compare.report.cost_part import cost_section
from fusion_det.compare.report.page import Section, Table
from fusion_det.compare.report.words import quantity
from fusion_det.compare.tell import COUNTED, write_files

WORDS = {"add": ["neck=fpn"], "aff": ["neck=fpn", "fusion=aff"]}


@pytest.fixture(scope="module")
def study(tmp_path_factory, coco_root) -> tuple[Outcome, dict[str, Cost]]:
    """Two arms whose configs are known and one whose config is not, and what the first two cost."""
    qualities = {"add": (0.8, 0.1), "aff": (0.9, 0.06), "old": (0.8, 0.1)}
    outcome = cases.study(tmp_path_factory.mktemp("study"), qualities, seeds=(0, 1), images=12, resamples=20)
    configs = {arm: tiny_state(coco_root, 0, words)["config"] for arm, words in WORDS.items()}
    start = {"class_names": ["red", "green", "blue"]}
    runs = tuple(replace(run, config=configs[run.arm], start=start) if run.arm in configs else run for run in outcome.runs)
    return replace(outcome, runs=runs), {arm: cost_of(config, 3, (64, 64)) for arm, config in configs.items()}


@pytest.fixture(scope="module")
def costs(study) -> dict[str, ArmCost]:
    return costs_of(study[0])


@pytest.fixture(scope="module")
def section(study, costs) -> Section:
    found = cost_section(study[0], {"add": 0, "aff": 1, "old": 2}, costs, Looked())
    assert found is not None
    return found


def rows(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def change(value: int, base: int) -> str:
    return f"{100 * (value / base - 1):+.1f} %"


def test_every_arm_shows_what_was_counted(study, section):
    whole = {arm: cost.total for arm, cost in study[1].items()}
    table = section.tables[0]
    assert [column.name for column in table.columns[2:5]] == ["parameters", "FLOPs", "activations"]
    for row in rows(table)[:2]:
        assert row[3:5] == [quantity(2 * whole[row[0]].macs), quantity(whole[row[0]].activations)]
    assert [cell.note for cell in table.rows[1][3:5]] == [
        change(whole["aff"].macs, whole["add"].macs), change(whole["aff"].activations, whole["add"].activations),
    ]  # fmt: skip
    assert rows(table)[2][3:5] == ["-", "-"]


def test_the_parts_are_told_apart(study, section):
    table = section.tables[1]
    assert table.caption == "Cost by part"
    names = [cell.text or cell.note for cell, *_ in table.rows]
    assert names == ["add", "backbone", "neck", "head", "aff", "backbone", "neck", "head"]
    expected = [part for cost in study[1].values() for part in (cost.total, *cost.parts.values())]
    assert [row[1:] for row in rows(table)] == [[*map(quantity, (part.parameters, part.flops, part.activations))] for part in expected]
    base, own = study[1]["add"].parts["neck"], study[1]["aff"].parts["neck"]
    notes = [[cell.note for cell in row[1:]] for row in table.rows]
    assert notes[6] == [change(getattr(own, kind), getattr(base, kind)) for kind in ("parameters", "flops", "activations")]
    assert not any(any(notes[place]) for place in (0, 1, 2, 3, 5, 7))  # the other parts are the same
    assert not table.folded


def test_the_convention_and_what_is_not_counted_stand_there_once(study, section):
    convention, outside, unknown, *_ = section.lead
    assert "one picture of 64 x 64 pixels" in convention
    assert "1 multiply-accumulate, MAC, = 2 FLOPs" in convention
    assert "Late fusion is not counted" in convention
    names = {name for cost in study[1].values() for name in cost.uncounted}
    largest = max(names, key=lambda name: max(c.uncounted[name].elements for c in study[1].values() if name in c.uncounted))
    assert outside.split("any arm): ")[1].startswith(largest)
    told = [entry.split()[0] for entry in outside.split("any arm): ")[1].partition(" and ")[0].rstrip(".").split(", ")]
    assert len(told) == len(set(told)) == min(12, len(names))
    assert set(told) <= names
    assert unknown == "FLOPs and activations of old are unknown: the config of the detector is not known."


def test_proposals_are_told(study, costs):
    two_stage = {arm: replace(cost, counted=cost.counted and replace(cost.counted, proposals=1000)) for arm, cost in costs.items()}
    found = cost_section(study[0], {"add": 0, "aff": 1, "old": 2}, two_stage, Looked())
    assert found is not None
    assert "The head of add, aff was counted at 1,000 proposals." in found.lead


def test_files_hold_the_same_numbers(study, costs):
    outcome, counted = study
    write_files(outcome, costs)
    folder = Path(outcome.folder)
    found = json.loads((folder / "report.json").read_text())["costs"]
    assert list(found) == ["add", "aff", "old"]
    assert found["aff"]["counted"] == json.loads(json.dumps(counted["aff"].as_dict()))
    assert (found["aff"]["training_seconds"], found["aff"]["training_images_per_second"]) == (100.5, None)
    assert (found["old"]["counted"], found["old"]["why"]) == (None, "the config of the detector is not known")
    with (folder / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    for row in table:
        cost = counted.get(row["arm"])
        assert row["flops"] == (str(cost.total.flops) if cost else "")
        assert row["activations"] == (str(cost.total.activations) if cost else "")
        for column in COUNTED[2:]:
            part, _, kind = column.partition("_")
            assert row[column] == (str(getattr(cost.parts[part], kind)) if cost else "")


def test_parameters_are_counted_where_the_results_do_not_tell(study):
    outcome, counted = study
    silent = tuple(replace(run, results={}) for run in outcome.runs)
    found = costs_of(replace(outcome, runs=silent))
    assert found["add"].parameters == counted["add"].total.parameters
    assert found["old"].parameters is None
