"""Documented variants of named necks: keys that make them another published network."""

from __future__ import annotations

import pytest
import torch
from named_necks import backbone_maps, count, named_neck, shuffle_norms
from torch.nn import functional as F

from fusion_det.fusion.add import Add
from fusion_det.fusion.spatial_softmax import SpatialSoftmax
from fusion_det.necks.blocks import Conv3x3
from fusion_det.necks.entry import Projection
from fusion_det.necks.extra import ExtraLevels
from fusion_det.necks.fusion_neck import FusionNeck
from fusion_det.necks.plan import Node, Plan, output_widths
from fusion_det.necks.resample.projected import ProjectedUp
from fusion_det.necks.resample.resize import Resize
from fusion_det.necks.weight_maps import reorder_choice
from fusion_det.structures import LevelSpec

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def prepare(name, levels, height=128, width=192, **keys):
    torch.manual_seed(4)
    neck = shuffle_norms(named_neck(name, levels, **keys)).eval()
    return neck, [m.detach() for m in backbone_maps(levels, 2, height, width)]


def test_asff_of_yolov3_expands_after_the_choice():
    levels = [LevelSpec("C3", 8, 8), LevelSpec("C4", 8, 16), LevelSpec("C5", 16, 32)]
    keys = {"widths": [8, 8, 16], "topology__widths": [8, 16, 32], "resample__up__project": "if_needed", "fusion__width": 4}
    neck, maps = prepare("asff", levels, **keys)
    assert [level.channels for level in neck.levels] == [8, 16, 32]
    assert not list(neck.entries.parameters())
    resampled = {name for name, edge in neck.resamplers.items() if list(edge.parameters())}
    assert resampled == {"C5_to_P3", "C5_to_P4", "C3_to_P4", "C3_to_P5", "C4_to_P5"}  # C4 to P3 keeps its width: no convolution

    def unit(layers, x, stride=1):
        conv, norm, _ = layers
        return F.leaky_relu(norm(F.conv2d(x, conv.weight, stride=stride, padding=conv.kernel_size[0] // 2)), 0.1)

    def up(x, factor):
        return F.interpolate(x, scale_factor=factor, mode="nearest")

    c3, c4, c5 = maps
    edges = neck.resamplers
    inputs = {
        "P3": [c3, up(c4, 2), up(unit(edges["C5_to_P3"].project, c5), 4)],
        "P4": [c4, unit(edges["C3_to_P4"].steps[0], c3, 2), up(unit(edges["C5_to_P4"].project, c5), 2)],
        "P5": [c5, unit(edges["C3_to_P5"].steps[1], F.max_pool2d(c3, 3, 2, 1), 2), unit(edges["C4_to_P5"].steps[0], c4, 2)],
    }
    for found, (name, given) in zip(neck(maps), inputs.items(), strict=True):
        operator = neck.operators[name]
        logits = operator.weight_levels(torch.cat([unit(part, x) for part, x in zip(operator.compress, given, strict=True)], dim=1))
        weights = logits.softmax(dim=1)
        fused = sum(weights[:, i : i + 1] * x for i, x in enumerate(given))
        torch.testing.assert_close(found, unit(neck.blocks[name], fused), **TOLERANCE)


def test_asff_of_yolov3_has_as_many_parameters_as_the_authors_code():
    levels = [LevelSpec("C3", 256, 8), LevelSpec("C4", 256, 16), LevelSpec("C5", 512, 32)]
    keys = {"widths": [256, 256, 512], "topology__widths": [256, 512, 1024], "resample__up__project": "if_needed"}
    with torch.device("meta"):
        assert count(named_neck("asff", levels, **keys)) == 9_756_377
        assert count(named_neck("asff", levels, **keys, fusion__width=8)) == 9_731_441


YOLO_AFPN = {f"{part}__activation": "silu" for part in ("entry", "resample__up", "resample__down", "parts__project", "fusion", "block")}
YOLO_AFPN |= {"widths": 0.25, "resample__down__shifted": False, "block__count": 3}


def test_afpn_of_yolov5():
    levels = [LevelSpec(f"C{i}", 4 << i, 1 << i) for i in (3, 4, 5)]
    neck, maps = prepare("afpn", levels, topology__widths=[32, 64, 128], **YOLO_AFPN)
    assert [level.channels for level in neck.levels] == [32, 64, 128]
    assert not any(isinstance(m, torch.nn.ReLU | torch.nn.LeakyReLU) for m in neck.modules())
    assert neck.resamplers["A3_1_to_A5_2"].conv.padding == (0, 0)
    assert [len(block) for name, block in neck.blocks.items() if name.startswith("A")] == [4] * 5
    fused = neck.operators["A3_1"]([neck.entries["C3"](maps[0]), neck.resamplers["C4_to_A3_1"](neck.entries["C4"](maps[1]), (16, 24))])
    x = F.silu(neck.blocks["A3_1"][0][1](neck.blocks["A3_1"][0][0](fused)))
    for block in list(neck.blocks["A3_1"])[1:]:
        x = F.silu(block.norm2(block.conv2(F.silu(block.norm1(block.conv1(x))))) + x)
    seen = []
    neck.blocks["A3_1"].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    assert [o.shape[1] for o in neck(maps)] == [32, 64, 128]
    torch.testing.assert_close(seen[0], x, **TOLERANCE)


@pytest.mark.parametrize("name", ["asff", "afpn"])
def test_output_widths_are_counted(name):
    levels = [LevelSpec("C3", 8, 8), LevelSpec("C4", 8, 16), LevelSpec("C5", 16, 32)]
    with pytest.raises(ValueError, match=r"one width per level \['C3', 'C4', 'C5'\], got \[8, 16\]"):
        named_neck(name, levels, channels=8, topology__widths=[8, 16])
    assert output_widths("dense", levels, None) == ["", "", ""]


def test_a_node_may_say_its_width_in_numbers():
    levels = [LevelSpec("C3", 8, 8), LevelSpec("C4", 16, 16)]
    plan = Plan.build(levels, [Node("P3", 8, ("C3", "C4"), block=True, width=12), Node("P4", 16, ("P3", "C4"), block=True)], ["P3", "P4"])

    def topology(levels):
        return plan

    neck = FusionNeck(levels, Add, Conv3x3, channels=6, topology=topology, entry=Projection, resample=Resize, extra=ExtraLevels)
    assert [level.channels for level in neck.levels] == [12, 6]
    assert [o.shape[1] for o in neck(backbone_maps(levels))] == [12, 6]


def test_enlarging_needs_no_convolution_where_the_width_stays():
    assert not list(ProjectedUp(8, 16, 8, project="if_needed").parameters())
    assert ProjectedUp(8, 16, 8, 6, project="if_needed").project[0].weight.shape == (6, 8, 1, 1)
    x = torch.randn(1, 8, 3, 4)
    assert torch.equal(ProjectedUp(8, 16, 8, project="if_needed")(x, (6, 8)), F.interpolate(x, scale_factor=2, mode="nearest"))


def test_nearest_only_where_the_sizes_are_whole_multiples():
    x, resize = torch.randn(1, 2, 3, 5), Resize(2, 32, 16, up="nearest_if_whole")
    assert torch.equal(resize(x, (6, 10)), F.interpolate(x, size=(6, 10), mode="nearest"))
    for size in ((5, 10), (6, 9)):
        assert torch.equal(resize(x, size), F.interpolate(x, size=size, mode="bilinear", align_corners=False))


def test_hybrid_encoder_positions_are_the_authors_on_square_maps_only():
    levels = [LevelSpec("C4", 8, 16), LevelSpec("C5", 8, 32)]
    for width, equal in ((96, True), (128, False)):
        (neck, maps), (theirs, _) = (
            prepare("hybrid_encoder", levels, 96, width, channels=8, context__positions=p) for p in ("by_row", "reference")
        )
        theirs.load_state_dict(neck.state_dict())
        assert torch.allclose(neck(maps)[1], theirs(maps)[1], atol=1e-5) is equal


def test_a_choice_in_another_order_of_inputs_is_the_same_choice():
    torch.manual_seed(2)
    theirs, ours, inputs = SpatialSoftmax(6, 3, width=2).eval(), SpatialSoftmax(6, 3, width=2).eval(), torch.randn(3, 2, 6, 4, 5).unbind()
    order = [1, 2, 0]  # our input 0 is their input 1
    state = {name: value for name, value in theirs.state_dict().items() if "weight_levels" in name}
    for k, place in enumerate(order):
        state |= {f"compress.{k}.{name}": value for name, value in theirs.compress[place].state_dict().items()}
    reorder_choice(state, "weight_levels", order)
    ours.load_state_dict(state)
    torch.testing.assert_close(ours([inputs[place] for place in order]), theirs(inputs), **TOLERANCE)
    with pytest.raises(ValueError, match=r"weight_levels has 3 inputs, expected an order of 0 to 2, got \[0, 1\]"):
        reorder_choice(state, "weight_levels", [0, 1])


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_fapn_with_norm_has_it_where_the_authors_have(norm):
    levels = [LevelSpec("C4", 8, 16), LevelSpec("C5", 8, 32)]
    keys = {"resample__up__norm": norm, "special_entries__deepest__norm": norm, "block__norm": norm}
    neck, maps = prepare("fapn", levels, channels=8, **keys)
    norms = {name for name, m in neck.named_modules() if isinstance(m, torch.nn.BatchNorm2d | torch.nn.GroupNorm)}
    assert norms == {"entries.C5.1", "blocks.P4.1", "resamplers.C5_to_M4.offset_norm"}
    aligned = neck.resamplers["C5_to_M4"]
    torch.nn.init.normal_(aligned.conv_offset_mask.weight, std=0.5)
    plain = neck(maps)[0]
    seen = []
    aligned.conv_offset_mask.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    own, coarse = neck.entries["C4"](maps[0]), F.interpolate(neck.entries["C5"](maps[1]), scale_factor=2, mode="bilinear")
    assert torch.equal(neck(maps)[0], plain)
    expected = aligned.offset_norm(aligned.offset(torch.cat([own, 2 * coarse], dim=1)))
    torch.testing.assert_close(seen[0], expected, **TOLERANCE)
