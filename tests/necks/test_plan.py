"""Plans refuse what cannot be walked, and draw themselves."""

from __future__ import annotations

import re

import pytest

from fusion_det.necks.plan import Node, Plan
from fusion_det.necks.topologies.fpn import fpn
from fusion_det.structures import LevelSpec

LEVELS = [LevelSpec("C3", 8, 8), LevelSpec("C4", 16, 16), LevelSpec("C5", 32, 32)]


def test_fpn_plan_is_the_papers_figure():
    plan = fpn(LEVELS)
    assert [(n.name, n.inputs, n.block) for n in plan.nodes] == [
        ("M4", ("C4", "C5"), False),
        ("M3", ("C3", "M4"), False),
        ("P3", ("M3",), True),
        ("P4", ("M4",), True),
        ("P5", ("C5",), True),
    ]
    assert plan.outputs == ("P3", "P4", "P5")


def test_drawing_names_every_node_with_stride_and_direction():
    text = fpn(LEVELS).draw()
    assert "M4 /16 <- fuse(C4, up C5)" in text
    assert "P5 /32 <- C5 + block" in text


@pytest.mark.parametrize(
    ("nodes", "outputs", "message"),
    [
        ([Node("P3", 8, ("C3", "X"))], ["P3"], "reads 'X'"),
        ([Node("A", 8, ("B",)), Node("B", 8, ("A",))], ["A"], "reads 'B'"),
        ([Node("C3", 8, ("C3",))], ["C3"], "defined twice"),
        ([Node("P3", 24, ("C3",))], ["P3"], "not a power of two apart"),
        ([Node("P3", 8, ())], ["P3"], "has no inputs"),
        ([Node("P3", 8, ("C3",))], ["P9"], "not made by any node"),
        ([Node("P4", 16, ("C4",)), Node("P3", 8, ("C3",))], ["P4", "P3"], "fine to coarse"),
        ([Node("P3", 8, ("C3",))], ["P3", "P3"], "none twice"),
        ([Node("P3", 8, ("C3",)), Node("Q", 8, ("C3",))], ["P3"], "never used"),
    ],
)
def test_impossible_plans_are_refused(nodes, outputs, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Plan.build(LEVELS, nodes, outputs)
