"""What FusionNeck does with widths, parts, entries and levels; what it refuses; and the picture of a plan."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from named_necks import RESNET50, SMALL, backbone_maps, named_neck

from fusion_det.fusion.add import Add
from fusion_det.necks.blocks import Conv1x1, Conv3x3
from fusion_det.necks.entry import Projection
from fusion_det.necks.extra import ExtraLevels
from fusion_det.necks.fusion_neck import FusionNeck
from fusion_det.necks.plan import Node, Plan
from fusion_det.necks.resample import Resize
from fusion_det.necks.topologies.balanced import balanced
from fusion_det.necks.topologies.bifpn import bifpn
from fusion_det.necks.topologies.fpg import fpg
from fusion_det.necks.topologies.fpn import fpn
from fusion_det.necks.topologies.gather import gather
from fusion_det.necks.topologies.nasfpn import nasfpn
from fusion_det.necks.topologies.pafpn import pafpn
from fusion_det.necks.topologies.progressive import progressive
from fusion_det.structures import LevelSpec

FIVE = [LevelSpec(f"C{i}", 8, 1 << i) for i in range(3, 8)]


def make(topology, **keys):
    parts = {"entry": Projection, "resample": Resize, "extra": ExtraLevels, "channels": 8} | keys
    return FusionNeck(SMALL, Add, Conv3x3, topology=topology, **parts)


def wiring(plan):
    return {node.name: node.inputs for node in plan.nodes}


def test_bifpn_cell_is_the_papers_figure():
    assert wiring(bifpn(FIVE, repeats=1)) == {
        "T6_1": ("C6", "C7"),
        "T5_1": ("C5", "T6_1"),
        "T4_1": ("C4", "T5_1"),
        "P3": ("C3", "T4_1"),
        "P4": ("C4", "T4_1", "P3"),
        "P5": ("C5", "T5_1", "P4"),
        "P6": ("C6", "T6_1", "P5"),
        "P7": ("C7", "P6"),
    }
    plan = bifpn(FIVE, repeats=3)
    assert len(plan.nodes) == 24
    assert plan.outputs == ("P3", "P4", "P5", "P6", "P7")
    assert wiring(plan)["T6_2"] == ("B6_1", "B7_1")


def test_nasfpn_cell_is_the_papers_figure():
    plan = nasfpn(FIVE, repeats=1)
    assert [(n.name, n.inputs, n.operator, n.block) for n in plan.nodes] == [
        ("A4", ("C4", "C6"), "gp", True),
        ("B4", ("C4", "A4"), "", True),
        ("P3", ("C3", "B4"), "", True),
        ("P4", ("B4", "P3"), "", True),
        ("G5", ("P3", "P4"), "gp", False),
        ("P5", ("C5", "G5"), "", True),
        ("G7", ("B4", "P5"), "gp", False),
        ("P7", ("C7", "G7"), "", True),
        ("P6", ("P5", "P7"), "gp", True),
    ]


def test_fpg_starts_fine_levels_late_and_joins_four_edges():
    plan = fpg(FIVE, pathways=9)
    columns = {level: [n.name for n in plan.nodes if n.name.startswith(f"X{level}_")] for level in range(3, 8)}
    assert [len(columns[level]) for level in range(3, 8)] == [5, 6, 7, 8, 9]
    assert wiring(plan)["X5_4"] == ("L5_4", "U5_4", "D5_4", "K5_4")
    assert wiring(plan)["X3_5"] == ("L3_5", "D3_5", "K3_5")
    assert wiring(plan)["U5_4"] == ("X4_4",)
    assert wiring(plan)["U5_3"] == ("C4",)  # stride 16 has not joined yet
    assert len(fpg(FIVE, pathways=2, triangular=False).nodes) == 2 * (5 + 5 + 5 + 4 + 4) + 5


def test_progressive_joins_neighbours_first():
    steps = wiring(progressive(RESNET50))
    assert steps["A2_1"] == ("C2", "C3")
    assert steps["A4_2"] == ("C4", "A2_1", "A3_1")
    assert steps["A5_3"] == ("C5", "A2_2", "A3_2", "A4_2")
    assert "A5_2" not in steps


def test_pafpn_forms_differ_in_what_goes_upward():
    assert wiring(pafpn(SMALL))["S5"] == ("F5", "S4")
    assert wiring(pafpn(SMALL, form="paper"))["P5"] == ("F5", "P4")


def test_balanced_meets_in_the_middle_or_where_told():
    by_name = {node.name: node for node in balanced(RESNET50, coarser=1).nodes}
    assert by_name["G"].stride == 16
    assert by_name["G"].inputs == ("F4", "F2", "F3", "F5", "F6")
    with pytest.raises(ValueError, match=r"stride 64 is not among the pyramid's strides \[4, 8, 16, 32\]"):
        balanced(RESNET50, stride=64)


def test_balanced_without_refinement_adds_one_map_to_every_level():
    torch.manual_seed(0)
    parts = {"merge": Add, "residual": Add, "refine": Conv1x1, "coarser": Resize}
    neck = make(partial(balanced, stride=8), parts=parts)
    refine = neck.blocks["G"][0]
    torch.nn.init.dirac_(refine.weight)
    torch.nn.init.zeros_(refine.bias)
    kept = {}
    for name in ("F3", "F4", "F5"):
        neck.blocks[name].register_forward_hook(lambda module, args, out, name=name: kept.update({name: out}))
    outputs = neck(backbone_maps(SMALL))
    differences = [out - kept[name] for out, name in zip(outputs, ("F3", "F4", "F5"), strict=True)]
    for coarse in differences[1:]:
        pooled = torch.nn.functional.adaptive_max_pool2d(differences[0], coarse.shape[-2:])
        torch.testing.assert_close(coarse, pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [2, 4, 8, 16, 32, 64])
def test_gather_meets_at_any_stride(stride):
    neck = make(partial(gather, stride=stride))
    (found,) = neck(backbone_maps(SMALL))
    assert neck.levels == (LevelSpec(f"P{stride.bit_length() - 1}", 8, stride),)
    height, width = -(-131 // 8), -(-203 // 8)
    known = {8: (17, 26), 16: (9, 13), 32: (5, 7)}
    assert tuple(found.shape[-2:]) == known.get(stride, (-(-height * 8 // stride), -(-width * 8 // stride)))


@pytest.mark.parametrize(
    ("widths", "expected"), [(None, [8, 8, 8]), (6, [6, 6, 6]), ([4, 6, 8], [4, 6, 8]), (0.5, [6, 10, 14]), (1.0, [12, 20, 28])]
)
def test_widths_inside(widths, expected):
    neck = make(fpn, widths=widths)
    assert [neck.entries[f"C{i}"][0].out_channels for i in (3, 4, 5)] == expected
    assert [level.channels for level in neck.levels] == expected
    assert [o.shape[1] for o in neck(backbone_maps(SMALL))] == expected


def test_each_edge_can_have_its_own_entry():
    neck = make(partial(bifpn, repeats=1), entry_per_edge=True)
    assert sorted(neck.edge_entries) == ["C3_to_P3", "C4_to_P4", "C4_to_T4_1", "C5_to_P5", "C5_to_T4_1"]
    assert not len(neck.entries)
    assert [o.shape[1] for o in neck(backbone_maps(SMALL))] == [8, 8, 8]


def test_deeper_levels_take_part_and_extra_levels_do_not():
    neck = make(fpn, deeper=partial(ExtraLevels, count=1), extra=partial(ExtraLevels, count=1))
    assert [level.name for level in neck.levels] == ["P3", "P4", "P5", "P6", "P7"]
    assert wiring(neck.plan)["M5"] == ("C5", "C6")
    assert [tuple(o.shape[-2:]) for o in neck(backbone_maps(SMALL))] == [(17, 26), (9, 13), (5, 7), (3, 4), (2, 2)]


def test_special_entries_are_for_one_level():
    neck = make(fpn, special_entries={"finest": partial(Projection, norm="bn")})
    assert isinstance(neck.entries["C3"][1], torch.nn.BatchNorm2d)
    assert isinstance(neck.entries["C4"][1], torch.nn.Identity)


@pytest.mark.parametrize(
    ("topology", "keys", "message"),
    [
        (nasfpn, {}, r"expected 5 levels .* got 3: \['C3', 'C4', 'C5'\]"),
        (balanced, {}, r"names the parts \['merge', 'refine', 'residual'\], but neck.parts holds none"),
        (fpn, {"widths": [4, 5]}, r"one number per backbone level \['C3', 'C4', 'C5'\], got \[4, 5\]"),
        (fpn, {"special_entries": {"middle": Projection}}, r"out of \['finest', 'deepest'\], got \['middle'\]"),
        (partial(gather, context=True), {}, r"node 'X5' holds the context, but neck.context is null"),
        (partial(gather, stride=24), {}, r"not a power of two apart"),
        (partial(gather, coarser=1), {}, r"coarser=1 levels need spread=true"),
        (partial(gather, embed="after"), {}, r"names the parts \['embed'\], but neck.parts holds none"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(topology, keys, message):
    with pytest.raises(ValueError, match=message) as refused:
        make(topology, **keys)
    assert "\n" not in str(refused.value)


def test_context_of_a_level_that_nobody_reads_is_refused():
    from fusion_det.necks.topologies.single import single

    with pytest.raises(ValueError, match=r"context enriches C5, but the topology reads only \['C4'\]"):
        make(partial(single, stride=16), context=Conv3x3)


def test_alignment_needs_an_own_map():
    from fusion_det.necks.resample.aligned import Aligned
    from fusion_det.necks.topologies.single import single

    with pytest.raises(ValueError, match="node 'P3' resamples its only or own input 'C5'"):
        make(partial(single, spread=True), resample=Aligned)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (Node("P3", 8, ("C3",), operator="gp"), "names operator 'gp' but has one input"),
        (Node("P3", 8, ("C3", "C3")), "reads a map twice"),
        (Node("P3", 8, ("C3",), width="C9"), "takes the width of 'C9'"),
    ],
)
def test_nodes_that_mean_nothing_are_refused(node, message):
    with pytest.raises(ValueError, match=message):
        Plan.build(SMALL, [node], ["P3"])


def test_text_names_the_parts_of_a_node():
    text = nasfpn(FIVE, repeats=1).draw()
    assert "A4 /16 <- gp(C4, up C6) + block" in text
    assert "G5 /32 <- gp(down P3, down P4)" in text
    assert "F6 /64 <- down[coarser] F5" in balanced(RESNET50, coarser=1).draw()
    assert "T5 /32 <- C5 + reduce" in named_neck("hybrid_encoder", SMALL, channels=8).plan.draw()
