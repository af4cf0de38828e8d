"""The soft choice against its formula."""

from __future__ import annotations

import torch

from fusion_det.fusion.blend import blend


def maps(dtype=torch.float64):
    x, y, gate = torch.randn(3, 2, 3, 4, 5, dtype=torch.float64)
    return [t.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_() for t in (x, y, gate.sigmoid())]


def test_equals_the_formula_and_its_gradients():
    x, y, gate = maps()
    got, wanted = blend(x, y, gate), gate * x + (1 - gate) * y
    torch.testing.assert_close(got, wanted)
    seed = torch.randn_like(got)
    for ours, formula in zip(*(torch.autograd.grad(out, (x, y, gate), seed) for out in (got, wanted)), strict=True):
        torch.testing.assert_close(ours, formula)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_gradients_of_both_orders_are_those_of_differences():
    assert torch.autograd.gradcheck(blend, maps())
    assert torch.autograd.gradgradcheck(blend, maps())


def test_mixed_types_meet_in_the_widest():
    x, y, gate = maps(torch.bfloat16)
    out = blend(x, y.float(), gate)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, gate.float() * x.float() + (1 - gate.float()) * y.float())
    out.sum().backward()
    assert [t.grad.dtype for t in (x, y, gate)] == [torch.bfloat16] * 3


def test_one_sided_gates_give_one_map():
    x, y, _ = maps()
    assert torch.equal(blend(x, y, torch.ones_like(x)), x)
    assert torch.equal(blend(x, y, torch.zeros_like(x)), y)
