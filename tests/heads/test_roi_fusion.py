"""What a box is described by: each kind of RoI fusion, with every operator."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from head_cases import CONFIGS, make_features, make_head, make_targets
from head_cases import options as yaml_options
from torch.nn import functional as F
from torchvision.ops import roi_align as reference

from fusion_det.config.instantiate import build
from fusion_det.heads.roi_fusion.context import enlarge
from fusion_det.heads.roi_levels import RoIPool
from fusion_det.structures import LevelSpec

KINDS = sorted(file.stem for file in (CONFIGS / "roi_fusion").glob("*.yaml"))
OPERATORS = sorted(file.stem for file in (CONFIGS / "fusion").glob("*.yaml"))
CHANNELS = 16
LEVELS = [LevelSpec(f"P{i}", CHANNELS, 2**i) for i in range(2, 5)]
SHAPES = [(33, 51), (17, 26), (9, 13)]
SMALL = {"adaptive": {"width": 16}, "level": {"span": 2}}
"""So that every kind joins something."""


def pool_of(levels=LEVELS, **changes):
    keys = {"levels_used": None, "bins": 7, "samples": 2, "aligned": True, "canonical_size": 40.0, "canonical_stride": 8.0}
    return RoIPool(levels, **keys | changes)


def make_kind(kind, operator=None, pool=None, **changes):
    node = yaml_options("roi_fusion", kind, **changes)
    if operator is not None:
        node["fusion"] = yaml_options("fusion", operator)
    torch.manual_seed(3)
    return build(node, pool or pool_of())


def some_boxes(batch=2, count=6):
    generator = torch.Generator().manual_seed(1)
    start = torch.rand(batch, count, 2, generator=generator) * torch.tensor([150.0, 90.0])
    return torch.cat([start, start + 4 + torch.rand(batch, count, 2, generator=generator) * 60], dim=2)


def pooled(feature, boxes, stride, bins=7):
    """torchvision's RoIAlign of one map."""
    rows = torch.cat([torch.cat([torch.full((len(b), 1), float(i)), b], dim=1) for i, b in enumerate(boxes)])
    return reference(feature, rows, bins, 1 / stride, 2, True)


@pytest.mark.parametrize(("kind", "operator"), list(product(KINDS, OPERATORS)))
def test_every_kind_takes_every_operator(kind, operator):
    pool = pool_of()
    fusion = make_kind(kind, operator, pool, **SMALL.get(kind, {}))
    features, boxes = [x.requires_grad_() for x in make_features(2, 0, LEVELS, SHAPES)], some_boxes()
    out = fusion(features, boxes, pool.assign(boxes))
    assert out.shape == (12, fusion.out_channels, fusion.bins, fusion.bins)
    out.square().sum().backward()
    assert all(x.grad is not None for x in features)
    untouched = [name for name, p in fusion.named_parameters() if p.grad is None]
    if operator not in ("hard",):  # whose policy learns from rewards
        assert not untouched
    fusion.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert fusion(features, boxes, pool.assign(boxes)).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_and_predicts_inside_the_head(kind):
    levels = [LevelSpec(f"P{i}", CHANNELS, 2**i) for i in range(3, 7)]
    features = make_features(2, 0, levels, [(128 // level.stride,) * 2 for level in levels])
    head = make_head("faster_rcnn_small", levels, 5, roi_fusion=yaml_options("roi_fusion", kind))
    for counts in ([5, 2], [0, 0]):
        head.zero_grad()
        losses = head.losses(features, make_targets(counts))
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())
        assert not [name for name, p in head.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    raw = head.eval().predict(features, torch.tensor([[128, 128]] * 2))
    assert raw.boxes.isfinite().all()
    assert set(raw.levels.unique().tolist()) <= {0, 1, 2}


def test_level_is_the_level_of_the_size_and_its_coarser_neighbours():
    pool, features, boxes = pool_of(canonical_size=20.0), make_features(2, 0, LEVELS, SHAPES), some_boxes()
    index = pool.assign(boxes)
    assert set(index.unique().tolist()) == {0, 1, 2}
    each = torch.stack([pooled(x, boxes, level.stride) for x, level in zip(features, LEVELS, strict=True)])
    rows = torch.arange(12)
    assert torch.allclose(make_kind("level", pool=pool)(features, boxes, index), each[index.flatten(), rows], atol=1e-5)
    both = each[index.flatten(), rows] + each[(index.flatten() + 1).clamp(max=2), rows]
    assert torch.allclose(make_kind("level", pool=pool, span=2)(features, boxes, index), both, atol=1e-5)


@pytest.mark.parametrize(("norm_over", "dims"), [("channel", 1), ("blob", (1, 2, 3))])
def test_ion_pools_every_level_and_the_context(norm_over, dims):
    """The paper's figure in a few lines: pool, divide by the L2 norm, scale, concatenate, 1x1."""
    features, boxes = make_features(2, 0, LEVELS, SHAPES), some_boxes()
    fusion = make_kind("ion", norm_over=norm_over, scale=3.0)
    maps = [*features, fusion.context(features[-1])]
    parts = [pooled(x, boxes, stride) for x, stride in zip(maps, [4, 8, 16, 16], strict=True)]
    parts = [3 * x / torch.linalg.vector_norm(x, dim=dims, keepdim=True).clamp(min=1e-12) for x in parts]
    expected = F.conv2d(torch.cat(parts, dim=1), fusion.operator.reduce.weight, fusion.operator.reduce.bias)
    with torch.no_grad():
        assert torch.allclose(fusion(features, boxes, torch.zeros(2, 6).long()), expected, atol=1e-4)
    with_all_pixels_zero = fusion([x * 0 for x in features], boxes, torch.zeros(2, 6).long())
    assert with_all_pixels_zero.isfinite().all()


def test_ion_brings_levels_of_other_widths_together():
    levels = [LevelSpec("C3", 8, 8), LevelSpec("C4", 12, 16)]
    features = make_features(2, 0, levels, SHAPES[1:])
    fusion = make_kind("ion", "add", pool_of(levels))
    out = fusion(features, some_boxes(), torch.zeros(2, 6).long())
    assert out.shape == (12, 12, 7, 7)
    with pytest.raises(ValueError, match=r"levels of one width .* got C3 8, C4 12 channels"):
        make_kind("level", pool=pool_of(levels))
    assert make_kind("ion", pool=pool_of(levels), channels=10).out_channels == 10
    with pytest.raises(ValueError, match="joins two maps or more, got only C3"):
        make_kind("ion", pool=pool_of(levels, levels_used=["C3"]), context=None)


def test_ion_scale_is_fixed_on_demand():
    assert not any(p.requires_grad for p in make_kind("ion", learned=False).scales)
    assert all(p.requires_grad for p in make_kind("ion").scales)


def test_adaptive_is_the_first_linear_layer_of_each_level():
    features, boxes = make_features(2, 0, LEVELS, SHAPES), some_boxes()
    fusion = make_kind("adaptive", width=10)
    each = [
        F.linear(pooled(x, boxes, level.stride).flatten(1), layer.weight.flatten(1), layer.bias).relu()
        for x, level, layer in zip(features, LEVELS, fusion.layers, strict=True)
    ]
    expected = torch.stack(each).amax(dim=0)
    with torch.no_grad():
        assert torch.allclose(fusion(features, boxes, torch.zeros(2, 6).long()).flatten(1), expected, atol=1e-4)
    assert (fusion.bins, fusion.linear_layers) == (1, 1)
    head = make_head(
        "faster_rcnn_small", [LevelSpec("P3", 16, 8), LevelSpec("P4", 16, 16)], 5, roi_fusion=yaml_options("roi_fusion", "adaptive")
    )
    linears = [m for m in head.box_head.modules() if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(1024, 256)]  # one less than the YAML's two


def test_context_looks_around_the_box():
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    assert enlarge(boxes, 1.5).tolist() == [[5.0, 10.0, 35.0, 70.0]]
    features, boxes, pool = make_features(2, 0, LEVELS, SHAPES), some_boxes(), pool_of()
    fusion = make_kind("context", "stack", pool, conv_width=9)
    assert (fusion.out_channels, fusion.bins) == (9, 5)
    index = torch.ones(2, 6).long()
    inner, outer = pooled(features[1], boxes, 8), pooled(features[1], enlarge(boxes, 1.5), 8)
    expected = F.conv2d(torch.cat([inner, outer], dim=1), fusion.conv.weight, fusion.conv.bias).relu()
    with torch.no_grad():
        assert torch.allclose(fusion(features, boxes, index), expected, atol=1e-4)


def test_surroundings_have_one_and_a_half_sides_and_two_and_a_quarter_areas():
    """MS-CNN's context region: 0.25 of a side more on every side, wherever the box lies."""
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(200, 2, generator=generator) * 300 - 50
    boxes = torch.cat([low, low + 1 + torch.rand(200, 2, generator=generator).square() * 400], dim=1)
    scale = yaml_options("roi_fusion", "context")["scale"]
    found = enlarge(boxes, scale)
    sides, wider = boxes[:, 2:] - boxes[:, :2], found[:, 2:] - found[:, :2]
    assert torch.allclose(wider, 1.5 * sides, rtol=1e-4)
    assert torch.allclose(wider.prod(dim=1), 2.25 * sides.prod(dim=1), rtol=1e-4)
    assert torch.allclose(found[:, :2] + found[:, 2:], boxes[:, :2] + boxes[:, 2:], atol=1e-3)
    assert torch.allclose(boxes[:, :2] - found[:, :2], 0.25 * sides, atol=1e-3)
    assert torch.allclose(enlarge(found, 1 / scale), boxes, atol=1e-3)


def test_context_sees_the_ring_around_the_box_and_nothing_beyond():
    features = make_features(1, 0, [LevelSpec("P3", 16, 8)], [(40, 40)])
    boxes, index = torch.tensor([[[128.0, 128.0, 192.0, 192.0]]]), torch.zeros(1, 1).long()  # 8 pixels of the map, from 16 to 24
    fusion = make_kind("context", "concat", pool_of([LevelSpec("P3", 16, 8)]))

    def changed(low, high):
        """The share of the result that changes with the map's pixels from ``low`` to ``high`` around the box, not in it."""
        other = features[0].clone()
        other[..., low:high, low:high] += 1
        other[..., 16:24, 16:24] = features[0][..., 16:24, 16:24]
        with torch.no_grad():
            return float((fusion([other], boxes, index) != fusion(features, boxes, index)).float().mean())

    assert changed(14, 26) > 0.3
    far = features[0].clone()
    far[..., :13, :] = far[..., 27:, :] = 100.0  # a pixel of room for interpolation
    with torch.no_grad():
        assert torch.equal(fusion([far], boxes, index), fusion(features, boxes, index))


def test_one_level_needs_nothing_joined():
    pool = pool_of(levels_used=["P3"])
    features, boxes = make_features(2, 0, LEVELS, SHAPES), some_boxes()
    assert make_kind("adaptive", pool=pool, width=8)(features, boxes, pool.assign(boxes)).shape == (12, 8, 1, 1)
    assert make_kind("ion", pool=pool)(features, boxes, pool.assign(boxes)).shape == (12, 16, 7, 7)
    with pytest.raises(ValueError, match="span 2 is more than the 1 levels"):
        make_kind("level", pool=pool, span=2)
    with pytest.raises(ValueError, match="needs 3 bins or more"):
        make_kind("context", pool=pool_of(bins=2), conv_width=4)
