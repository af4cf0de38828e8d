"""Every difference between two arms, and what kind it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import CONFIG, changed

from fusion_det.compare.fairness import fairness_sheet, fatal_reasons, keys_under_study
from fusion_det.compare.run_record import RunRecord

START = {
    "data": {"train": "t" * 64, "val": "v" * 64}, "category_ids": [1, 2], "class_names": ["a", "b"], "steps": 8, "order": "o" * 64,
    "first_batch": "f" * 64, "weights": {"backbone": "w", "head": "h"}, "shapes": {"backbone": "s", "head": "s"}, "hardware": "cpu",
}  # fmt: skip
ENVIRONMENT = {"python": "3.11", "packages": {"torch": "2.15"}, "world_size": 1, "commit": "c"}


def run(arm: str, seed: int = 0, *, config=None, start=None, environment=None, words=()) -> RunRecord:
    return RunRecord(
        arm, seed, Path("p.json"), config=changed(CONFIG, {"seed": seed, **(config or {})}), start=changed(START, start or {}),
        environment=changed(ENVIRONMENT, environment or {}), words=tuple(words), results={"precision": "fp32"},
    )  # fmt: skip


def kinds(a: RunRecord, b: RunRecord, variables=None, **options) -> dict[str, str]:
    variables = {"a": [], "b": ["neck=bifpn"]} if variables is None else variables
    return {d.key: d.kind for d in fairness_sheet([a, b], variables=variables, **options)}


def test_arms_that_differ_in_nothing_have_an_empty_sheet():
    assert kinds(run("a"), run("b")) == {}


def test_a_neck_brings_its_fusion_and_block_along():
    other = run("b", config={"neck._target_": "bifpn", "neck.repeats": 3, "fusion._target_": "weighted", "block._target_": "sep"})
    assert set(kinds(run("a"), other).values()) == {"variable"}
    assert keys_under_study(["neck=x", "roi_fusion.span=2"]) == ("neck", "fusion", "block", "roi_fusion.span", "head.roi_fusion.span")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"optimizer.lr": 0.1}, "suspicious"),
        ({"init_from": "x.pt"}, "suspicious"),
        ({"trainer.epochs": 9}, "suspicious"),
        ({"eval.max_detections": 50}, "fatal"),
        ({"eval.use_ema": False}, "fatal"),
        ({"data._target_": "scenes"}, "fatal"),
        ({"data.root": "elsewhere"}, "allowed"),
        ({"device": "cuda:1"}, "allowed"),
        ({"trainer.pictures": 0}, "allowed"),
        ({"name": "y", "run_dir": "z"}, "allowed"),
    ],
)
def test_config_keys(change, kind):
    assert set(kinds(run("a"), run("b", config=change)).values()) == {kind}


def test_what_the_arms_name_is_the_variable_but_data_and_evaluation_stay_fatal():
    named = {"a": [], "b": ["optimizer.lr=0.1"]}
    assert kinds(run("a"), run("b", config={"optimizer.lr": 0.1}), named) == {"optimizer.lr": "variable"}
    named = {"a": [], "b": ["eval.max_detections=5"]}
    assert kinds(run("a"), run("b", config={"eval.max_detections": 5}), named) == {"eval.max_detections": "fatal"}
    named = {"a": [], "b": ["data.train_images=9"]}
    trained_on_less = run("b", config={"data.train_images": 9}, start={"data.train": "u"})
    assert kinds(run("a"), trained_on_less, named) == {"data.train_images": "variable", "training data": "variable"}
    assert kinds(run("a"), run("b", start={"data.val": "u"}), named) == {"validation data": "fatal"}


@pytest.mark.parametrize(
    ("start", "environment", "key", "kind"),
    [
        ({"data.val": "x"}, {}, "validation data", "fatal"),
        ({"data.train": "x"}, {}, "training data", "fatal"),
        ({"class_names": ["b", "a"]}, {}, "classes", "fatal"),
        ({"category_ids": [1, 3]}, {}, "classes", "fatal"),
        ({"steps": 9}, {}, "steps", "suspicious"),
        ({"order": "x"}, {}, "data order", "suspicious"),
        ({"first_batch": "x"}, {}, "first batch", "suspicious"),
        ({"weights.backbone": "x"}, {}, "backbone at the start", "suspicious"),
        ({"weights.head": "x"}, {}, "head at the start", "suspicious"),
        ({"weights.head": "x", "shapes.head": "y"}, {}, "head at the start", "allowed"),
        ({"hardware": "gpu"}, {}, "hardware", "suspicious"),
        ({}, {"packages.torch": "2.11"}, "packages.torch", "suspicious"),
        ({}, {"world_size": 2}, "world size", "suspicious"),
        ({}, {"commit": "d"}, "commit", "suspicious"),
    ],
)
def test_facts(start, environment, key, kind):
    assert kinds(run("a"), run("b", start=start, environment=environment)) == {key: kind}


def test_the_budget_may_change_the_length():
    longer = run("b", config={"trainer.epochs": 9}, start={"steps": 36})
    assert set(kinds(run("a"), longer, budget_keys=("trainer.epochs",)).values()) == {"allowed"}


def test_without_known_variables_the_typed_words_tell_them():
    a = run("a", words=["data=coco", "neck=fpn", "seed=0", "run_dir=x"])
    b = run("b", words=["data=coco", "neck=bifpn", "seed=0", "run_dir=y"], config={"neck._target_": "bifpn", "optimizer.lr": 1.0})
    assert {d.key: d.kind for d in fairness_sheet([a, b])} == {"neck._target_": "variable", "optimizer.lr": "suspicious"}


def test_runs_are_compared_seed_by_seed_and_lone_seeds_are_told():
    sheet = fairness_sheet([run("a", 0), run("a", 1, start={"steps": 9}), run("b", 0), run("b", 1), run("b", 2)], variables={})
    assert {d.key: (d.kind, d.values) for d in sheet} == {"steps": ("suspicious", (9, 8)), "seeds": ("suspicious", ([0, 1], [0, 1, 2]))}


def test_fatal_ones_come_first_and_name_both_arms():
    sheet = fairness_sheet([run("a"), run("b", config={"optimizer.lr": 1.0, "eval.use_ema": False, "device": "cpu"})], variables={})
    assert [d.kind for d in sheet] == ["fatal", "suspicious", "allowed"]
    (reason,) = fatal_reasons(sheet)
    assert reason == "a and b: eval.use_ema differs (True and False): another data set or another way of measuring"
