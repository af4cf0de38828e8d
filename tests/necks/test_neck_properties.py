"""What holds for every neck whatever its weights, and properties that papers state of a wiring."""

from __future__ import annotations

import pytest
import torch
from named_necks import NECKS, SMALL, backbone_maps, named_neck, shuffle_norms
from torch.nn import functional as F

from fusion_det.necks.entry.identity import Identity
from fusion_det.structures import LevelSpec

FEWER = {"bifpn": {"topology__repeats": 1}, "nasfpn": {"topology__repeats": 1}, "fpg": {"topology__pathways": 4}, "afpn": {"widths": 8}}
SIZES = [(64, 64), (33, 97), (200, 31), (7, 5)]
"""Heights and widths of pictures: whole multiples, odd ones, and smaller than the coarsest stride."""


def small(name, **keys):
    torch.manual_seed(0)
    return shuffle_norms(named_neck(name, SMALL, channels=8, **FEWER.get(name, {}), **keys))


@pytest.mark.parametrize("name", NECKS)
def test_every_size_gives_every_level(name):
    neck = small(name).eval()
    for height, width in SIZES:
        with torch.no_grad():
            outputs = neck(backbone_maps(SMALL, height=height, width=width))
        expected = [(1, level.channels, -(-height // level.stride), -(-width // level.stride)) for level in neck.levels]
        assert [tuple(o.shape) for o in outputs] == expected
        assert all(torch.isfinite(o).all() for o in outputs)


@pytest.mark.parametrize("name", NECKS)
def test_backbones_that_round_down_keep_their_sizes(name):
    """A backbone without padding gives 16 x 25, 8 x 12 and 4 x 6 for 131 x 203: every level that it has keeps that size."""
    neck = small(name).eval()
    maps = [torch.randn(1, level.channels, 131 // level.stride, 203 // level.stride) for level in SMALL]
    with torch.no_grad():
        outputs = neck(maps)
    sizes = {level.stride: m.shape[2:] for level, m in zip(SMALL, maps, strict=True)}
    found = {level.stride: o.shape[2:] for level, o in zip(neck.levels, outputs, strict=True) if level.stride in sizes}
    assert found == {stride: sizes[stride] for stride in found}


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", NECKS)
def test_backbone_maps_are_left_as_they_are(name, mode):
    neck = small(name).train(mode == "train")
    maps = [m.detach() for m in backbone_maps(SMALL, batch=2)]
    before = [m.clone() for m in maps]
    neck(maps)
    assert all(torch.equal(a, b) for a, b in zip(maps, before, strict=True))


@pytest.mark.parametrize("name", NECKS)
def test_in_evaluation_a_picture_does_not_see_its_neighbours(name):
    neck = small(name).eval()
    maps = [m.detach() for m in backbone_maps(SMALL, batch=2)]
    with torch.no_grad():
        together = neck(maps)
        alone = neck([m[1:] for m in maps])
    for both, one in zip(together, alone, strict=True):
        torch.testing.assert_close(both[1:], one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NECKS)
def test_autocast_in_evaluation_is_near_full_precision(name):
    neck = small(name).eval()
    maps = [m.detach() for m in backbone_maps(SMALL)]
    with torch.no_grad():
        exact = neck(maps)
        with torch.autocast("cpu", torch.bfloat16):
            rough = neck(maps)
    for one, other in zip(exact, rough, strict=True):
        assert torch.isfinite(other).all()
        error = (one - other.float()).square().mean().sqrt()
        assert error <= 0.05 * one.square().mean().sqrt() + 1e-3


def test_asff_with_zero_logits_is_the_mean_of_the_resized_levels():
    levels = [LevelSpec(f"C{i}", 8, 1 << i) for i in (3, 4, 5)]
    resize = {"_target_": "fusion_det.necks.resample.Resize"}
    entry = {"_target_": f"{Identity.__module__}.Identity"}
    neck = named_neck("asff", levels, channels=8, resample=resize, entry=entry, block="none").eval()
    for operator in neck.operators.values():
        torch.nn.init.zeros_(operator.weight_levels.weight)
        torch.nn.init.zeros_(operator.weight_levels.bias)
    maps = [m.detach() for m in backbone_maps(levels)]
    for own, found in zip(maps, neck(maps), strict=True):
        size = own.shape[2:]
        larger = [F.interpolate(m, size=size, mode="nearest") for m in maps if m.shape[2] < size[0]]
        smaller = [F.adaptive_max_pool2d(m, size) for m in maps if m.shape[2] > size[0]]
        torch.testing.assert_close(found, sum([own, *larger, *smaller]) / 3)
