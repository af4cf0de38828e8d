"""Arms as a user types them."""

from __future__ import annotations

import pytest

from fusion_det.compare.arms import automatic_names, parse_arms
from fusion_det.errors import FusionDetError


def named(value) -> dict[str, tuple[str, ...]]:
    return {arm.name: arm.words for arm in parse_arms(value)}


def test_a_line_a_list_and_a_mapping_mean_the_same():
    meant = {"add": ("neck=fpn", "fusion=add"), "aff": ("neck=fpn", "fusion=aff")}
    assert named("neck=fpn fusion=add; neck=fpn fusion=aff") == meant
    assert named(["neck=fpn fusion=add", "neck=fpn fusion=aff"]) == meant
    assert named({"add": "neck=fpn fusion=add", "aff": ["neck=fpn", "fusion=aff"]}) == meant
    assert named("add: neck=fpn fusion=add;\n aff: neck=fpn fusion=aff;") == meant


@pytest.mark.parametrize(
    ("arms", "names"),
    [
        ([["neck=fpn"], ["neck=bifpn"]], ["fpn", "bifpn"]),
        ([["neck=fpn"], ["neck=fpn", "fusion=aff"]], ["fpn", "fpn-aff"]),
        ([["neck.channels=32"], ["neck.channels=64"]], ["channels32", "channels64"]),
        ([["tta.flip=true"], ["tta.flip=false"]], ["flip", "no-flip"]),
        ([["~fusion"], []], ["no-fusion", "default"]),
        ([["optimizer.lr=1e-3"], ["schedule.lr=1e-3"]], ["lr1e-3", "lr1e-3-2"]),
        ([["init_from=a/b c/../d.pt"], ["neck=fpn"]], ["a-b-c-..-d.pt", "fpn"]),
    ],
)
def test_names_tell_what_differs_and_are_unique(arms, names):
    found = automatic_names(arms)
    assert [name.replace("init_from", "") for name in found] == names or found == names


def test_quotes_keep_what_belongs_together():
    assert named("a: backbone.name='x; y z'; b: neck=fpn") == {"a": ("backbone.name=x; y z",), "b": ("neck=fpn",)}


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("neck=fpn", "arms: 1 given, a comparison needs two"),
        ("a: neck=fpn; A: neck=none", "arms: two arms are called A"),
        ({"<script>": "neck=fpn", "b": "neck=none"}, "arms: '<script>' cannot be a name"),
        ({"../../x": "neck=fpn", "b": "neck=none"}, "arms: '../../x' cannot be a name"),
        ({"=cmd()": "neck=fpn", "b": "neck=none"}, "arms: '=cmd()' cannot be a name"),
        ({"\x1b[2Jx": "neck=fpn", "b": "neck=none"}, "arms: '\\x1b[2Jx' cannot be a name"),
        ("neck=fpn seed=3; neck=none", "arms.fpn-seed3: seed=3 cannot be given here -> give seeds="),
        ("neck=fpn run_dir=x; neck=none", "arms.fpn-x: run_dir=x cannot be given here"),
        ("neck=fpn foo; neck=none", "'foo' is not KEY=VALUE"),
        ("neck='fpn; neck=none", "arms: cannot be read: no closing quotation"),
        ({"a": "neck=fpn; neck=none", "b": ""}, "arms: several arms under one name"),
    ],
)
def test_what_cannot_be_an_arm_is_told_in_one_line(value, fault):
    with pytest.raises(FusionDetError) as error:
        parse_arms(value)
    assert fault in str(error.value)
    assert "\x1b" not in str(error.value)
    assert len(error.value.lines) == 1


def test_all_faults_at_once():
    with pytest.raises(FusionDetError) as error:
        parse_arms({"a b": "seed=1 foo", "c": "resume=auto"})
    assert len(error.value.lines) == 4
