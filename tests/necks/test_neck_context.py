"""Context parts: what reaches where, and brute-force twins."""

from __future__ import annotations

import pytest
import torch

from fusion_det.errors import ConfigError
from fusion_det.necks.context.aifi import AIFI, sine_positions
from fusion_det.necks.context.aspp import ASPP
from fusion_det.necks.context.dilated_encoder import DilatedEncoder
from fusion_det.necks.context.irnn import IRNN, four_sweeps, sweep
from fusion_det.necks.context.non_local import NonLocal

CONTEXTS = [IRNN, AIFI, DilatedEncoder, ASPP, NonLocal]


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda c: c.__name__)
def test_shape_and_gradient_at_batch_one(context):
    torch.manual_seed(0)
    made = context(16)
    x = torch.randn(1, 16, 5, 7, requires_grad=True)
    y = made(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in made.parameters())


@pytest.mark.parametrize("dim", [-1, -2])
def test_sweep_equals_the_loop(dim):
    x = torch.randn(2, 3, 6, 9, dtype=torch.float64)
    moved = x.movedim(dim, 0)
    state, states = torch.zeros_like(moved[0]), []
    for row in moved:
        state = (state + row).relu()
        states.append(state)
    expected = torch.stack(states).movedim(0, dim)
    assert torch.allclose(sweep(x, dim), expected, atol=1e-5)
    assert (sweep(x, dim) >= 0).all()


def test_an_impulse_travels_undamped_and_directions_mirror_each_other():
    x = torch.zeros(1, 1, 3, 5)
    x[0, 0, 1, 2] = 2.0
    right, left, down, up = four_sweeps(x)
    assert right[0, 0, 1].tolist() == [0, 0, 2, 2, 2]
    assert left[0, 0, 1].tolist() == [2, 2, 2, 0, 0]
    assert down[0, 0, :, 2].tolist() == [0, 2, 2]
    assert up[0, 0, :, 2].tolist() == [2, 2, 0]
    noise = torch.randn(1, 2, 4, 6)
    assert torch.equal(four_sweeps(noise)[1], four_sweeps(noise.flip(-1))[0].flip(-1))


def test_learned_recurrence_starts_as_the_identity_and_then_follows_its_matrices():
    torch.manual_seed(0)
    fixed, learned = IRNN(4), IRNN(4, recurrence="learned")
    assert learned.load_state_dict(fixed.state_dict(), strict=False).missing_keys == ["matrices.0", "matrices.1"]
    x = torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(learned(x), fixed(x))
    for matrices in learned.matrices:
        torch.nn.init.normal_(matrices, std=0.3)
    column = x[:, :, :, 0].relu()
    second = (torch.einsum("oc,bch->boh", learned.matrices[0][0], column) + x[:, :, :, 1]).relu()
    lower = (torch.einsum("oc,bcw->bow", learned.matrices[0][3], x[:, :, 4].relu()) + x[:, :, 3]).relu()
    right, _, _, up = four_sweeps(x, learned.matrices[0])
    torch.testing.assert_close(right[..., 1], second)
    torch.testing.assert_close(up[:, :, 3], lower)
    assert not torch.allclose(learned(x), fixed(x))


def test_sweeps_may_be_narrower_than_the_map():
    made = IRNN(8, hidden=3, recurrence="learned")
    assert [tuple(m.shape) for m in made.matrices] == [(4, 3, 3), (4, 3, 3)]
    assert [conv.out_channels for conv in (made.input, *made.joins)] == [3, 3, 8]
    made(torch.randn(1, 8, 4, 5)).sum().backward()
    assert all(p.grad is not None for p in made.parameters())


@pytest.mark.parametrize(("rounds", "reach"), [(1, "cross"), (2, "all")])
def test_one_round_sees_row_and_column_two_see_everything(rounds, reach):
    made = IRNN(2, rounds=rounds)
    for conv in (made.input, *made.joins):
        torch.nn.init.constant_(conv.weight, 0.1)
    x = torch.rand(1, 2, 5, 6, requires_grad=True)
    made(x)[0, 0, 2, 3].backward()
    seen = x.grad.abs().sum((0, 1)) > 0
    expected = torch.zeros(5, 6, dtype=torch.bool)
    expected[2] = True
    expected[:, 3] = True
    assert torch.equal(seen, expected if reach == "cross" else torch.ones_like(expected))


def test_positions_belong_to_their_tokens_also_on_maps_that_are_not_square():
    where = sine_positions(2, 3, 8).view(2, 3, 8)
    column, row = torch.arange(3.0), torch.arange(2.0)
    assert torch.allclose(where[..., 0], row.sin()[:, None].expand(2, 3))
    assert torch.allclose(where[..., 4], column.sin().expand(2, 3))
    scrambled = sine_positions(2, 3, 8, by_row=False)
    assert torch.allclose(scrambled[:, 0], torch.tensor([0.0, 0.0, 1.0, 1.0, 2.0, 2.0]).sin())
    assert torch.allclose(scrambled[:, 4], torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0]).sin())
    assert torch.equal(sine_positions(3, 3, 8, by_row=False), sine_positions(3, 3, 8))


def test_positions_enter_queries_and_keys_but_not_values():
    made = AIFI(8, heads=2, hidden=16).eval()
    noise = torch.randn(1, 8, 2, 5)
    assert not torch.allclose(made(noise).flip(-1), made(noise.flip(-1)), atol=1e-4)
    constant = torch.ones(1, 8, 2, 5)
    # Values are equal everywhere, so attention mixes nothing and every position gives the same.
    assert torch.allclose(made(constant), made(constant)[..., :1, :1].expand(1, 8, 2, 5), atol=1e-5)


def test_aifi_refuses_what_it_cannot_hold():
    with pytest.raises(ValueError, match=r"heads=8 and 4 divide, got 12"):
        AIFI(12)
    with pytest.raises(ConfigError, match=r"6 x 7 = 42 positions, more than max_tokens=40"):
        AIFI(8, max_tokens=40)(torch.zeros(1, 8, 6, 7))


def test_dilated_encoder_reaches_as_far_as_its_dilations():
    made = DilatedEncoder(4, expansion=1.0, dilations=[2, 4]).eval()
    x = torch.randn(1, 4, 31, 31, requires_grad=True)
    made(x)[0, :, 15, 15].sum().backward()
    rows = (x.grad.abs().sum((0, 1, 3)) > 0).nonzero().flatten()
    assert rows.min() >= 15 - (1 + 2 + 4)
    assert rows.max() <= 15 + (1 + 2 + 4)
    assert len(rows) > 3


def test_aspp_has_four_quarters_and_a_global_one():
    made = ASPP(8).eval()
    y = made(torch.randn(1, 8, 6, 6))
    assert y.shape == (1, 8, 6, 6)
    assert torch.equal(y[:, 6:], y[:, 6:, :1, :1].expand(1, 2, 6, 6))
    with pytest.raises(ValueError, match="4 branches divide, got 6"):
        ASPP(6)


def test_non_local_equals_brute_force():
    made = NonLocal(4, reduction=2)
    x = torch.randn(1, 4, 3, 2)
    q, k, v = (conv(x)[0].flatten(1) for conv in (made.theta, made.phi, made.g))
    expected = torch.zeros(2, 6)
    for i in range(6):
        weights = torch.stack([(q[:, i] * k[:, j]).sum() for j in range(6)]).softmax(0)
        expected[:, i] = sum(weights[j] * v[:, j] for j in range(6))
    assert torch.allclose(made(x), x + made.conv_out(expected.view(1, 2, 3, 2)), atol=1e-5)
    with pytest.raises(ValueError, match="keeps its 4 channels, got 6"):
        NonLocal(4, 6)
