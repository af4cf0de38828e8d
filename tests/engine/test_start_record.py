"""Arms of one seed start alike, proven by the hashes of start.json: data order, augmented first batch, weights of backbone and head."""

from __future__ import annotations

import json

import pytest
import torch

from fusion_det.config.run_folder import make_run_folder
from fusion_det.engine.run import Run

ARMS = {"add": [], "aff": ["fusion=aff", "fusion.reduction=4"], "pafpn": ["neck=pafpn"], "none": ["neck=none"]}


@pytest.fixture(scope="module")
def start_of():
    """The start record of an arm and seed, made once each."""
    made: dict[tuple[str, int], dict] = {}

    def record(make_settings, arm: str, seed: int = 0, *words: str) -> dict:
        key = (arm, seed, *words)
        if key not in made:
            settings = make_settings("-".join(map(str, key)), *ARMS[arm], f"seed={seed}", "augment=strong", *words)
            folder = make_run_folder(settings, [])
            run = Run(settings, folder, torch.device("cpu"))
            run._record_start()
            run.log.close()
            folder.release()
            made[key] = json.loads((folder.path / "start.json").read_text())
        return made[key]

    return record


@pytest.mark.parametrize("arm", ["aff", "pafpn", "none"])
def test_arms_of_one_seed_share_order_augmentation_backbone_and_head(start_of, make_settings, arm):
    baseline, other = start_of(make_settings, "add"), start_of(make_settings, arm)
    for key in ("order", "first_batch", "data", "steps", "class_names", "category_ids", "images", "annotations"):
        assert baseline[key] == other[key], key
    for part in ("backbone", "head"):
        assert baseline["weights"][part] == other["weights"][part], part
    assert baseline["weights"]["neck"] != other["weights"]["neck"]


def test_another_seed_changes_all_of_them(start_of, make_settings):
    one, two = start_of(make_settings, "add"), start_of(make_settings, "add", 1)
    assert one["data"] == two["data"]
    assert one["shapes"] == two["shapes"]
    for key in ("order", "first_batch"):
        assert one[key] != two[key]
    assert all(one["weights"][part] != two["weights"][part] for part in ("backbone", "neck", "head"))


def test_a_head_of_another_shape_is_told_by_its_shapes(start_of, make_settings):
    one, two = start_of(make_settings, "add"), start_of(make_settings, "add", 0, "neck.channels=32")
    assert one["shapes"]["head"] != two["shapes"]["head"]
    assert one["weights"]["backbone"] == two["weights"]["backbone"]
