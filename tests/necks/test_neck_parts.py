"""Entries, resamplers, blocks and extra levels, each against numbers that follow from its definition."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from fusion_det.necks.blocks import Conv3x3, NoBlock
from fusion_det.necks.blocks.bottleneck import Bottleneck, ConvResidual
from fusion_det.necks.blocks.csp import CSP
from fusion_det.necks.blocks.rep_csp import RepCSP
from fusion_det.necks.blocks.separable import Separable
from fusion_det.necks.entry.l2norm import L2NormEntry
from fusion_det.necks.entry.lrn import ConvLRN, local_response_norm
from fusion_det.necks.entry.selection import FeatureSelection
from fusion_det.necks.extra import ExtraLevels
from fusion_det.necks.extra.pooled import PooledLevels
from fusion_det.necks.extra.ssd import SsdExtras
from fusion_det.necks.operators.global_pooling import GlobalPooling
from fusion_det.necks.operators.stack import Stack
from fusion_det.necks.resample import Resize
from fusion_det.necks.resample.aligned import Aligned
from fusion_det.necks.resample.carafe import Carafe
from fusion_det.necks.resample.deconv import Deconv
from fusion_det.necks.resample.enlarge import enlarge
from fusion_det.necks.resample.pool import Pool
from fusion_det.necks.resample.projected import PatchConv, ProjectedUp
from fusion_det.necks.resample.strided_conv import StridedConv
from fusion_det.necks.resample.up_down import up_down

BLOCKS = [Conv3x3, NoBlock, Separable, Bottleneck, ConvResidual, CSP, RepCSP]
UPS = [Resize, Deconv, partial(Deconv, depthwise=True), Carafe, ProjectedUp]
DOWNS = [Resize, StridedConv, partial(StridedConv, pool_first=True), PatchConv, Pool]
DOWNS += [partial(Pool, window=window) for window in ("overlap", "same", "pixel")] + [partial(Pool, kind="avg", window="overlap")]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda c: c.__name__)
def test_blocks_keep_the_size_change_the_width_and_leave_their_input_alone(block):
    x = torch.randn(1, 8, 5, 7)
    copy = x.clone()
    assert block(8)(x).shape == (1, 8, 5, 7)
    assert block(8, 12)(x).shape == (1, 12, 5, 7)
    assert torch.equal(x, copy)


@pytest.mark.parametrize("order", ["conv_norm_act", "act_conv_norm"])
@pytest.mark.parametrize("block", [Conv3x3, Separable])
def test_order_decides_where_the_activation_stands(block, order):
    made = block(4, norm="none", activation="relu", order=order)
    x = torch.randn(1, 4, 6, 6)
    copy = x.clone()
    y = made(x)
    assert (y >= 0).all() == (order == "conv_norm_act")
    assert torch.equal(made(x.relu()), y) == (order == "act_conv_norm")
    assert torch.equal(x, copy)


def test_folded_rep_csp_gives_the_same_numbers():
    torch.manual_seed(0)
    block = RepCSP(6, 8, expansion=0.5).double()
    for norm in block.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(norm.weight)
            torch.nn.init.normal_(norm.bias)
    block.eval()
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    before, parameters = block(x), sum(p.numel() for p in block.parameters())
    block.fold()
    assert torch.allclose(block(x), before, atol=1e-12)
    assert sum(p.numel() for p in block.parameters()) < parameters


@pytest.mark.parametrize("resample", UPS, ids=str)
@pytest.mark.parametrize("ratio", [2, 4])
def test_enlarging_reaches_the_size_asked_for(resample, ratio):
    made = resample(8, 32, 32 // ratio)
    x = torch.randn(2, 8, 5, 7)
    for size in [(5 * ratio, 7 * ratio), (5 * ratio - 1, 7 * ratio - 1), (5 * ratio + 1, 7 * ratio + 1)]:
        assert made(x, size).shape == (2, 8, *size)


@pytest.mark.parametrize("resample", DOWNS, ids=str)
@pytest.mark.parametrize("ratio", [2, 4])
def test_reducing_reaches_the_size_asked_for(resample, ratio):
    made = resample(8, 8, 8 * ratio)
    for height, width in [(8, 12), (9, 13), (17, 26)]:
        for rounded in (-(-height // ratio), height // ratio):
            size = (rounded, -(-width // ratio))
            assert made(torch.randn(2, 8, height, width), size).shape == (2, 8, *size)


@pytest.mark.parametrize("resample", [r for r in UPS if not (isinstance(r, partial) and "depthwise" in r.keywords)], ids=str)
def test_enlarging_can_change_the_width(resample):
    assert resample(8, 16, 8, 6)(torch.randn(1, 8, 4, 4), (8, 8)).shape == (1, 6, 8, 8)


@pytest.mark.parametrize("resample", DOWNS, ids=str)
def test_reducing_can_change_the_width(resample):
    assert resample(8, 8, 16, 6)(torch.randn(1, 8, 8, 8), (4, 4)).shape == (1, 6, 4, 4)


@pytest.mark.parametrize(("resample", "strides"), [(Deconv, (8, 16)), (Carafe, (8, 16)), (Aligned, (8, 16)), (ProjectedUp, (8, 16))])
def test_enlargers_refuse_to_reduce(resample, strides):
    with pytest.raises(ValueError, match=r"only enlarges maps, got stride 8 -> 16"):
        resample(8, *strides)


@pytest.mark.parametrize("resample", [StridedConv, Pool, PatchConv])
def test_reducers_refuse_to_enlarge(resample):
    with pytest.raises(ValueError, match=r"only reduces maps, got stride 16 -> 8"):
        resample(8, 16, 8)


def test_up_down_chooses_by_direction():
    assert isinstance(up_down(4, 16, 8, up=Carafe, down=StridedConv), Carafe)
    assert isinstance(up_down(4, 8, 16, up=Carafe, down=StridedConv), StridedConv)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("ratio", [2, 4])
def test_deconvolution_starts_as_bilinear_interpolation(ratio, depthwise):
    x = torch.randn(1, 3, 6, 8)
    found = Deconv(3, 8 * ratio, 8, depthwise=depthwise)(x, (6 * ratio, 8 * ratio))
    expected = F.interpolate(x, scale_factor=ratio, mode="bilinear", align_corners=False)
    inside = (..., slice(ratio, -ratio), slice(ratio, -ratio))  # at the border, interpolation repeats the edge and convolution sees zeros
    assert torch.allclose(found[inside], expected[inside], atol=1e-6)


def test_fixed_deconvolution_has_no_parameters_but_a_state():
    fixed = Deconv(3, 16, 8, depthwise=True, learned=False)
    assert not list(fixed.parameters())
    assert list(fixed.state_dict()) == ["deconv.weight"]
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(fixed(x, (8, 8)), Deconv(3, 16, 8, depthwise=True)(x, (8, 8)))


@pytest.mark.parametrize("ratio", [2, 4])
def test_carafe_equals_brute_force(ratio):
    torch.manual_seed(0)
    made = Carafe(3, 8 * ratio, 8, compressed=4, up_kernel=3)
    torch.nn.init.normal_(made.content_encoder.weight)
    x = torch.randn(2, 3, 4, 5)
    raw = F.pixel_shuffle(made.content_encoder(made.channel_compressor(x)), ratio).softmax(1)
    padded = F.pad(x, (1, 1, 1, 1))
    expected = torch.zeros(2, 3, 4 * ratio, 5 * ratio)
    for i in range(4 * ratio):
        for j in range(5 * ratio):
            for k in range(9):
                expected[:, :, i, j] += raw[:, k, i, j, None] * padded[:, :, i // ratio + k // 3, j // ratio + k % 3]
    assert torch.allclose(made(x, (4 * ratio, 5 * ratio)), expected, atol=1e-5)


@pytest.mark.parametrize(("window", "width"), [(5, 16), (5, 19), (11, 7), (11, 23)])  # whole and broken pieces of a row, one and several
def test_carafe_equals_windows_gathered_for_every_pixel(window, width):
    made = Carafe(3, 16, 8, compressed=4, up_kernel=window)
    torch.nn.init.normal_(made.content_encoder.weight)
    x = torch.randn(2, 3, 6, width).contiguous(memory_format=torch.channels_last)
    weights = F.pixel_shuffle(made.content_encoder(made.channel_compressor(x)), 2).softmax(1)
    windows = F.unfold(x, window, padding=window // 2).view(2, 3, -1, 6, width)
    expected = (F.interpolate(windows.flatten(1, 2), scale_factor=2).unflatten(1, (3, -1)) * weights[:, None]).sum(2)
    found = made(x, (12, 2 * width))
    assert torch.allclose(found, expected, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_carafe_of_a_constant_is_that_constant_inside():
    found = Carafe(2, 16, 8)(torch.full((1, 2, 9, 9), 3.0), (18, 18))
    assert torch.allclose(found[..., 4:-4, 4:-4], torch.tensor(3.0))


def test_alignment_starts_as_half_a_plain_convolution():
    made = Aligned(8, 16, 8, groups=4)
    x, own = torch.randn(1, 8, 3, 4), torch.randn(1, 8, 6, 8)
    enlarged = F.interpolate(x, size=(6, 8), mode="bilinear", align_corners=False)
    expected = F.conv2d(enlarged, made.deform.weight, padding=1) * 0.5  # no offsets yet, and every mask is sigmoid(0)
    assert torch.allclose(made(x, (6, 8), own), expected.relu(), atol=1e-5)
    with pytest.raises(ValueError, match=r"channels that its groups=8 divide, got 12"):
        Aligned(12, 16, 8)


def test_pool_windows():
    x = torch.arange(25.0).view(1, 1, 5, 5)
    assert Pool(1, 8, 16, window="pixel")(x, (3, 3))[0, 0].tolist() == [[0, 2, 4], [10, 12, 14], [20, 22, 24]]
    assert Pool(1, 8, 16, window="tile")(x, (3, 3))[0, 0].tolist() == [[6, 8, 9], [16, 18, 19], [21, 23, 24]]
    assert Pool(1, 8, 16, window="overlap")(x, (3, 3))[0, 0].tolist() == [[6, 8, 9], [16, 18, 19], [21, 23, 24]]
    even = torch.arange(16.0).view(1, 1, 4, 4)
    assert Pool(1, 8, 16, window="overlap")(even, (2, 2))[0, 0].tolist() == [[5, 7], [13, 15]]
    assert Pool(1, 8, 16, window="same")(even, (2, 2))[0, 0].tolist() == [[10, 11], [14, 15]]


@pytest.mark.parametrize("shifted", [True, False])
def test_patches_tile_the_map_unless_shifted(shifted):
    made = PatchConv(1, 8, 32, norm="none", activation="none", shifted=shifted)
    torch.nn.init.ones_(made.conv.weight)
    torch.nn.init.zeros_(made.conv.bias)
    found = made(torch.ones(1, 1, 8, 8), (2, 2))[0, 0].tolist()
    assert found == ([[9, 12], [12, 16]] if shifted else [[16, 16], [16, 16]])


def test_l2norm_has_its_scale_as_norm_everywhere():
    made = L2NormEntry(6, 4, scale=20.0, project="never")
    x = torch.randn(2, 6, 4, 5) * 100
    x[:, :, 1, 1] = 0
    x.requires_grad_()
    found = made(x)
    lengths = found.norm(dim=1)
    assert torch.allclose(lengths[:, 2:], torch.tensor(20.0))
    assert (lengths[:, 1, 1] == 0).all()
    found.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert made.out_channels == 6
    assert len(L2NormEntry(6, 6, project="if_needed")) == 1
    assert L2NormEntry(6, 4)(x).shape == (2, 4, 4, 5)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_enlarging_takes_a_gradient_that_was_cut_out_of_a_wider_one(mode, layout):
    wide = torch.randn(1, 7, 6, 8).contiguous(memory_format=layout)
    x = torch.randn(1, 4, 3, 4).contiguous(memory_format=layout).requires_grad_()
    large = enlarge(x, (6, 8), mode)
    assert torch.cat([large, large], dim=1).is_contiguous(memory_format=layout)
    (found,) = torch.autograd.grad(large, x, wide[:, 2:6])
    expected = F.interpolate(x, size=(6, 8), mode=mode, align_corners=None if mode == "nearest" else False)
    assert torch.equal(large, expected)
    assert torch.allclose(found, torch.autograd.grad(expected, x, wide[:, 2:6].contiguous())[0], atol=1e-6)
    assert found.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_enlarging_can_be_differentiated_twice(mode):
    x = torch.randn(1, 1, 2, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: enlarge(x, (4, 5), mode), x)
    assert torch.autograd.gradgradcheck(lambda x: enlarge(x, (4, 5), mode), x)


def test_l2norm_and_its_projection_are_one_step_with_the_same_numbers():
    made, gradient = L2NormEntry(6, 4), torch.randn(2, 4, 3, 5)
    torch.nn.init.uniform_(made[0].scale, 0.5, 2)
    torch.nn.init.normal_(made[1].bias)
    results = []
    for way in (made, lambda x: made[1](F.normalize(x, dim=1) * made[0].scale.view(1, -1, 1, 1))):
        x = torch.randn(2, 6, 3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = way(x)
        results.append([y, *torch.autograd.grad(y, [x, *made.parameters()], gradient)])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*results, strict=True))


def test_lrn_entry_divides_by_the_neighbouring_channels():
    made = ConvLRN(3, 7, kernel_size=1, size=3, alpha=3.0, beta=0.5, relu=False)
    x = torch.randn(1, 3, 2, 2)
    y = made.conv(x)
    squares = F.pad(y**2, (0, 0, 0, 0, 1, 1)).unfold(1, 3, 1).sum(-1)
    assert torch.allclose(made(x), y / (1 + squares).sqrt(), atol=1e-6)


@pytest.mark.parametrize("size", [1, 4, 5])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_local_response_norm_is_torchs(size, layout):
    x = (30 * torch.randn(2, 9, 3, 4)).contiguous(memory_format=layout).requires_grad_()
    found, expected = local_response_norm(x, size, 0.01, 0.75), F.local_response_norm(x, size, 0.01, 0.75)
    assert torch.allclose(found, expected, rtol=1e-5)
    gradient = torch.randn_like(found)
    assert torch.allclose(torch.autograd.grad(found, x, gradient)[0], torch.autograd.grad(expected, x, gradient)[0], rtol=1e-4, atol=1e-6)
    assert found.is_contiguous(memory_format=layout)


def test_selection_adds_a_gated_copy():
    made = FeatureSelection(4, 4)
    torch.nn.init.zeros_(made.attention.weight)  # every gate is sigmoid(0)
    made.project.weight.data = torch.eye(4)[:, :, None, None]
    x = torch.randn(1, 4, 3, 3)
    assert torch.allclose(made(x), 1.5 * x)


def test_global_pooling_attention_is_gated_by_its_first_input():
    own, other = torch.zeros(1, 2, 3, 3), torch.ones(1, 2, 3, 3)
    operator = GlobalPooling(2, 2)
    assert torch.equal(operator([own, other]), torch.full((1, 2, 3, 3), 0.5))
    assert operator.probe()["gate"].shape == (1, 2, 1, 1)
    assert operator.probe()["weights"].flatten().tolist() == [1.0, 0.5]
    assert GlobalPooling(2, 3)([own, other, other]).unique().tolist() == [1.0]


def test_global_pooling_attention_may_be_gated_by_the_greatest_value_of_its_last_input():
    own, other = torch.ones(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    other[0, 0, 1, 1] = 3.0
    operator = GlobalPooling(2, 2, gate="last", pooled="max")
    expected = other + torch.tensor([3.0, 0.0]).sigmoid()[:, None, None]
    torch.testing.assert_close(operator([own, other]), expected)
    weights = operator.probe()["weights"].flatten()
    torch.testing.assert_close(weights, torch.tensor([(torch.tensor(3.0).sigmoid().item() + 0.5) / 2, 1.0]))


def test_stack_keeps_every_channel():
    a, b = torch.randn(2, 1, 3, 2, 2)
    operator = Stack(3, 2)
    assert operator.out_channels == 6
    assert torch.equal(operator([a, b]), torch.cat([a, b], dim=1))


@pytest.mark.parametrize(
    "extra",
    [
        partial(ExtraLevels, kind="maxpool"),
        partial(ExtraLevels, kind="conv_on_input"),
        partial(ExtraLevels, kind="conv_on_output"),
        PooledLevels,
        partial(PooledLevels, source="output", window="tile", project_each=True),
        SsdExtras,
    ],
)
def test_extra_levels_halve_each_time(extra):
    made = extra(6, 4, count=3).eval()
    found = made(torch.randn(1, 6, 13, 9), torch.randn(1, 4, 13, 9))
    assert [tuple(x.shape) for x in found] == [(1, 4, 7, 5), (1, 4, 4, 3), (1, 4, 2, 2)]
    assert extra(6, 4, count=0)(torch.randn(1, 6, 3, 3), torch.randn(1, 4, 3, 3)) == []


def test_ssd_extras_refuse_widths_of_another_number():
    with pytest.raises(ValueError, match=r"expected 4 widths .* got \[8, 8\]"):
        SsdExtras(6, 4, widths=[8, 8])
