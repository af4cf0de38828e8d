"""Every neck of configs/neck, found by listing the folder, as its YAML states it."""

from __future__ import annotations

import copy

import pytest
import torch
from named_necks import CONFIGS, NECKS, SMALL, backbone_maps, count, named_neck

from fusion_det.build import dry_run
from fusion_det.config.cli import load_settings
from fusion_det.config.tools import get_tool

FEWER = {"bifpn": {"topology__repeats": 2}, "nasfpn": {"topology__repeats": 1}, "fpg": {"topology__pathways": 5}, "afpn": {"widths": 8}}
PUBLISHED = {"none", "single", "ssd", "mscnn", "hypernet", "ion", "fpn", "concat_fpn", "pafpn", "bifpn", "nasfpn", "fpg", "asff", "bfp"}
PUBLISHED |= {"hrfpn", "afpn", "se_fpn", "aff_fpn", "iaff_fpn", "carafe_fpn", "fapn", "hybrid_encoder", "yolox_pafpn", "attention"}


def small(name, **keys):
    return named_neck(name, SMALL, channels=8, **FEWER.get(name, {}), **keys)


def test_the_published_necks_are_there():
    assert set(NECKS) >= PUBLISHED
    assert len(PUBLISHED) == 24


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("mode", ["train", "eval", "bf16"])
@pytest.mark.parametrize("name", NECKS)
def test_odd_sizes_give_every_stride_and_reach_every_parameter(name, mode, batch):
    torch.manual_seed(0)
    neck = small(name).train(mode != "eval")
    maps = backbone_maps(SMALL, batch)
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16"):
        outputs = neck(maps)
    assert [tuple(o.shape) for o in outputs] == [(batch, s.channels, -(-131 // s.stride), -(-203 // s.stride)) for s in neck.levels]
    assert [level.channels for level in neck.levels] == [8] * len(outputs)
    assert all(torch.isfinite(o).all() for o in outputs)
    sum(o.float().square().sum() for o in outputs).backward()
    without = [path for path, p in neck.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not without, f"no finite gradient reaches {without}"
    assert all(m.grad is not None for m, level in zip(maps, SMALL, strict=True) if level.name in neck.entries)


@pytest.mark.parametrize("name", NECKS)
def test_state_round_trips_and_no_module_serves_two_places(name):
    neck = small(name).eval()
    paths = [path for path, _ in neck.named_modules(remove_duplicate=False)]
    assert len(paths) == len(set(neck.modules())), "a module is shared"
    other = small(name).eval()
    other.load_state_dict(copy.deepcopy(neck.state_dict()))
    maps = backbone_maps(SMALL)
    assert all(torch.equal(a, b) for a, b in zip(neck(maps), other(maps), strict=True))


@pytest.mark.parametrize("fusion", ["add", "stack", "aff", "concat"])
@pytest.mark.parametrize("name", NECKS)
def test_operator_and_block_can_be_exchanged(name, fusion):
    block = "none" if fusion == "stack" else "conv_bn"
    if (name, fusion) == ("bfp", "stack"):  # its gathered map goes into a refinement that keeps the width
        with pytest.raises(ValueError, match="keeps its 32 channels, got 8"):
            small(name, fusion=fusion, block=block)
        return
    neck = small(name, fusion=fusion, block=block).eval()
    assert [tuple(o.shape[:2]) for o in neck(backbone_maps(SMALL))] == [(1, 8)] * len(neck.levels)


@pytest.mark.parametrize("context", ["irnn.IRNN", "aifi.AIFI", "dilated_encoder.DilatedEncoder", "aspp.ASPP", "non_local.NonLocal"])
@pytest.mark.parametrize("name", ["fpn", "bifpn", "nasfpn", "ion"])
def test_every_context_fits(name, context):
    keys = {"heads": 4} if "AIFI" in context else {}
    neck = small(name, context={"_target_": f"fusion_det.necks.context.{context}", **keys}).eval()
    plain = small(name).eval() if name != "ion" else None
    assert plain is None or count(neck) > count(plain)
    assert all(torch.isfinite(o).all() for o in neck(backbone_maps(SMALL)))


@pytest.mark.parametrize("name", NECKS)
def test_builds_with_the_default_experiment(name):
    plan = dry_run(load_settings(get_tool("train"), [f"neck={name}"], CONFIGS).plain())
    assert plan.text.startswith("neck:\nC3 /8  C4 /16  C5 /32")
