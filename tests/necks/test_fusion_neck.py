"""Every topology with every operator, found by listing the folders; and FPN against torchvision's."""

from __future__ import annotations

import importlib
import inspect
from functools import partial
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

import fusion_det.fusion
import fusion_det.necks.operators
import fusion_det.necks.topologies as topologies
from fusion_det.fusion.add import Add
from fusion_det.fusion.operator import FusionOperator
from fusion_det.necks.blocks import Conv3x3, NoBlock
from fusion_det.necks.entry import Projection
from fusion_det.necks.extra import ExtraLevels
from fusion_det.necks.fusion_neck import FusionNeck
from fusion_det.necks.plan import Plan
from fusion_det.necks.resample import Resize
from fusion_det.necks.topologies.fpn import fpn
from fusion_det.structures import LevelSpec

LEVELS = [LevelSpec("C3", 6, 8), LevelSpec("C4", 10, 16), LevelSpec("C5", 14, 32)]


def modules_of(package):
    names = [p.stem for p in Path(package.__path__[0]).glob("*.py") if p.stem != "__init__"]
    return [importlib.import_module(f"{package.__name__}.{name}") for name in sorted(names)]


OPERATORS = [
    cls
    for package in (fusion_det.fusion, fusion_det.necks.operators)
    for module in modules_of(package)
    for _, cls in inspect.getmembers(module, inspect.isclass)
    if issubclass(cls, FusionOperator) and cls is not FusionOperator and cls.__module__ == module.__name__
]
TOPOLOGIES = [
    function
    for module in modules_of(topologies)
    for _, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and inspect.get_annotations(function).get("return") == Plan.__name__
]


FEWER = {"bifpn": {"repeats": 1}, "nasfpn": {"repeats": 1}, "fpg": {"pathways": 3}}
"""Shorter forms of repeated topologies, to keep the grid quick; the others stand as they are."""


def make_neck(topology, operator, **options):
    parts = {"entry": Projection, "resample": Resize, "extra": ExtraLevels, "block": Conv3x3, "channels": 8} | options
    block = parts.pop("block")
    return FusionNeck(LEVELS, operator, block, topology=topology, **parts)


def make_grid_neck(topology, operator):
    """The neck with stand-ins for the parts that the topology names, and with two deeper levels where it needs five."""
    topology = partial(topology, **FEWER.get(topology.__name__, {}))
    options = {}
    try:
        plan = topology(LEVELS)
    except ValueError:
        options["deeper"] = partial(ExtraLevels, count=2)
        plan = topology([*LEVELS, LevelSpec("C6", 8, 64), LevelSpec("C7", 8, 128)])
    operators, resamplers = {node.operator for node in plan.nodes}, {node.resample for node in plan.nodes}
    parts = {name: Add if name in operators else Resize if name in resamplers else Conv3x3 for name in plan.parts}
    return make_neck(topology, operator, parts=parts, **options)


def features(batch, height=131, width=203):
    """Backbone maps as a stride-2 network with padding gives them (ceil at each halving), with gradients."""
    return [torch.randn(batch, spec.channels, -(-height // spec.stride), -(-width // spec.stride), requires_grad=True) for spec in LEVELS]


def test_folders_hold_what_the_issue_names():
    assert {"Add", "Concat"} <= {cls.__name__ for cls in OPERATORS}
    found = {function.__name__ for function in TOPOLOGIES}
    assert {"fpn", "identity", "single", "pafpn", "bifpn", "gather", "nasfpn", "fpg", "dense", "balanced", "progressive"} <= found


def every_choice():
    """(operator, {option: value}) for every value of every option with listed values that is not the default."""
    for operator in OPERATORS:
        for name, parameter in inspect.signature(operator).parameters.items():
            hint = get_type_hints(operator.__init__).get(name)
            values = get_args(hint) if get_origin(hint) is Literal else (False, True) if hint is bool else ()
            yield from ((operator, {name: value}) for value in values if value != parameter.default)


CHOICES = list(every_choice())


def loss_of(outputs):
    return sum(o.float().square().sum() for o in outputs)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda f: f.__name__)
def test_contract(topology, operator, mode, precision, batch):
    torch.manual_seed(0)
    neck = make_grid_neck(topology, operator).train(mode == "train")
    maps = features(batch)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        outputs = neck(maps)
    assert [tuple(o.shape) for o in outputs] == [(batch, 8, -(-131 // s.stride), -(-203 // s.stride)) for s in neck.levels]
    assert all(torch.isfinite(o).all() for o in outputs)
    loss_of(outputs).backward()
    without = [name for name, p in neck.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without, f"no gradient reaches {without}"
    wild = [name for name, p in neck.named_parameters() if not torch.isfinite(p.grad).all()]
    assert not wild, f"gradients of {wild} are not finite"
    used = set(neck.entries)
    assert all((m.grad is not None and bool(m.grad.abs().sum() > 0)) == (s.name in used) for m, s in zip(maps, LEVELS, strict=True))


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda f: f.__name__)
def test_no_module_serves_two_places_and_the_state_round_trips(topology, operator):
    neck, other = make_grid_neck(topology, operator).eval(), make_grid_neck(topology, operator).eval()
    paths = [path for path, _ in neck.named_modules(remove_duplicate=False)]
    assert len(paths) == len(set(neck.modules())), "a module is shared"
    assert len(list(neck.named_parameters(remove_duplicate=False))) == len(list(neck.parameters())), "a parameter is shared"
    assert set(neck.operators) == {node.name for node in neck.plan.nodes if len(node.inputs) > 1}
    other.load_state_dict(neck.state_dict())
    maps = features(1)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(neck(maps), other(maps), strict=True))


@pytest.mark.parametrize(("operator", "options"), CHOICES, ids=lambda value: getattr(value, "__name__", None) or str(value))
def test_every_choice_of_an_option_keeps_the_contract(operator, options):
    torch.manual_seed(0)
    neck = make_neck(fpn, partial(operator, **options)).train()
    maps = features(2 if options == {"statistics": "batch"} else 1)  # the papers' BatchNorm on pooled maps has nothing to go by at batch 1
    loss = loss_of(neck(maps))
    for made in neck.operators.values():
        made.reinforce(torch.tensor(1.0))
        loss = loss + sum(made.auxiliary_losses().values())
    loss.backward()
    without = [name for name, p in neck.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not without
    assert all(m.grad.abs().sum() > 0 for m in maps)
    assert all(torch.isfinite(o).all() for o in neck.eval()(maps))


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda c: c.__name__)
def test_operators_work_on_roi_maps_and_refuse_single_inputs(operator):
    torch.manual_seed(0)
    op = operator(8, 3)
    maps = [torch.randn(5, 8, 7, 7, requires_grad=True) for _ in range(3)]
    fused = op(maps)
    assert fused.shape == (5, getattr(op, "out_channels", 8), 7, 7)
    fused.square().sum().backward()
    assert all(m.grad.abs().sum() > 0 for m in maps)
    with pytest.raises(ValueError, match="expected 3 inputs, got 2"):
        op([torch.randn(1, 8, 7, 7)] * 2)
    with pytest.raises(ValueError, match="at least 2"):
        operator(8, 1)


@pytest.mark.parametrize("kind", ["maxpool", "conv_on_input", "conv_on_output", None])
def test_fpn_equals_torchvision_bit_for_bit(kind):
    torch.manual_seed(1)
    count = 0 if kind is None else 1 if kind == "maxpool" else 2
    theirs_extra = {
        None: None,
        "maxpool": LastLevelMaxPool(),
        "conv_on_input": LastLevelP6P7(14, 8),
        "conv_on_output": LastLevelP6P7(8, 8),
    }[kind]
    theirs = FeaturePyramidNetwork([6, 10, 14], 8, theirs_extra)
    if kind == "conv_on_output":
        theirs_extra.use_P5 = True
    ours = make_neck(fpn, Add, extra=partial(ExtraLevels, count=count, kind=kind or "maxpool"))
    for i, level in enumerate(("3", "4", "5")):
        ours.entries[f"C{level}"][0].load_state_dict(theirs.inner_blocks[i][0].state_dict())
        ours.blocks[f"P{level}"][0].load_state_dict(theirs.layer_blocks[i][0].state_dict())
    if kind not in (None, "maxpool"):
        ours.extra.convs[0].load_state_dict(theirs_extra.p6.state_dict())
        ours.extra.convs[1].load_state_dict(theirs_extra.p7.state_dict())
    maps = features(2)
    expected = list(theirs(dict(zip("345", maps, strict=True))).values())
    found = ours(maps)
    assert len(found) == len(expected) == 3 + count
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert [level.stride for level in ours.levels] == [8, 16, 32, 64, 128][: 3 + count]


def test_fpn_has_the_published_number_of_parameters():
    resnet50 = [LevelSpec(f"C{i}", 64 << i, 1 << i) for i in (2, 3, 4, 5)]
    neck = FusionNeck(resnet50, Add, Conv3x3, channels=256, topology=fpn, entry=Projection, resample=Resize, extra=ExtraLevels)
    assert sum(p.numel() for p in neck.parameters()) == 3_344_384


def test_concat_is_a_sum_of_separate_projections():
    from fusion_det.fusion.concat import Concat

    op = Concat(8, 2)
    x, y = torch.randn(2, 2, 8, 5, 7).double()
    op.double()
    split = [torch.nn.functional.conv2d(m, w) for m, w in zip((x, y), op.reduce.weight.chunk(2, dim=1), strict=True)]
    assert torch.allclose(op([x, y]), split[0] + split[1] + op.reduce.bias[None, :, None, None], atol=1e-12)


def test_single_level_can_be_spread_to_all_strides():
    from fusion_det.necks.topologies.single import single

    neck = make_neck(partial(single, stride=16, spread=True), Add, block=NoBlock)
    maps = features(1)
    outputs = neck(maps)
    assert [o.shape[-2:] for o in outputs] == [m.shape[-2:] for m in maps]
    assert set(neck.entries) == {"C4"}
    with pytest.raises(ValueError, match="stride 4 is not among"):
        single(LEVELS, stride=4)
