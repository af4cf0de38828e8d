"""The parallel strategy against torch's own complex numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from fusion_det.fusion.complex_linear import ComplexLinear
from fusion_det.fusion.complex_magnitude import ComplexMagnitude
from fusion_det.fusion.complex_stack import ComplexStack


@pytest.fixture
def x_and_y() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = torch.randn(2, 2, 6, 5, 3, generator=torch.Generator().manual_seed(0))
    return x, y


def test_magnitude_by_hand():
    x, y, z = (torch.full((1, 1, 1, 1), value) for value in (2.0, -3.0, 6.0))
    assert ComplexMagnitude(1, 3)([x, y, z]).item() == pytest.approx(7)  # 4 + 9 + 36 = 49
    assert ComplexMagnitude(1, 2, theta=2.0)([x, y]).item() == pytest.approx(math.sqrt(4 + 36))


def test_magnitude_is_symmetric_and_the_absolute_value_without_the_other(x_and_y):
    x, y = x_and_y
    operator = ComplexMagnitude(6, 2)
    assert torch.equal(operator([x, y]), operator([y, x]))
    assert torch.allclose(operator([x, torch.zeros_like(y)]), x.abs())
    assert torch.allclose(operator([x, y]), torch.complex(x, y).abs())


def test_magnitude_does_not_see_a_turn_of_the_phase(x_and_y):
    x, y = x_and_y
    turned = torch.complex(x, y) * torch.polar(torch.tensor(1.0), torch.tensor(0.7))
    operator = ComplexMagnitude(6, 2)
    assert torch.allclose(operator([turned.real, turned.imag]), operator([x, y]), atol=1e-6)


def test_magnitude_has_a_finite_gradient_at_zero():
    x = torch.zeros(1, 1, 1, 1, requires_grad=True)
    ComplexMagnitude(1, 2)([x, x]).backward()
    assert x.grad.item() == 0


@pytest.mark.parametrize("output", ["concat", "real", "magnitude"])
def test_linear_equals_complex_arithmetic(x_and_y, output):
    x, y = x_and_y
    operator = ComplexLinear(6, 2, theta=0.5, output=output)
    pair = operator.fold.pairs[0]
    matrix = torch.complex(pair.real.weight, pair.imaginary.weight)[:, :, 0, 0]
    z = torch.einsum("oc,bchw->bohw", matrix, torch.complex(x, 0.5 * y))
    expected = {
        "real": lambda: z.real,
        "magnitude": lambda: z.abs(),
        "concat": lambda: F.conv2d(torch.cat([z.real, z.imag], dim=1), pair.join.weight, pair.join.bias),
    }[output]()
    assert torch.allclose(operator([x, y]), expected, atol=1e-5)


def test_linear_without_an_imaginary_part_is_two_shared_real_convolutions(x_and_y):
    x, y = x_and_y
    operator = ComplexLinear(6, 2)
    pair = operator.fold.pairs[0]
    torch.nn.init.zeros_(pair.imaginary.weight)
    expected = pair.join(torch.cat([pair.real(x), pair.real(y)], dim=1))
    assert torch.allclose(operator([x, y]), expected, atol=1e-6)


def test_linear_has_a_module_of_its_own_per_pair():
    pairs = ComplexLinear(6, 4).fold.pairs
    assert len({id(pair.real.weight) for pair in pairs}) == 3


def test_stack_is_real_parts_then_imaginary_parts(x_and_y):
    x, y = x_and_y
    operator = ComplexStack(6, 3)
    fused = operator([x, y, 2 * y])
    z = torch.complex(operator.real(x), operator.imaginary(torch.cat([y, 2 * y], dim=1)))  # [2, 3, 5, 3]
    assert torch.equal(fused, torch.view_as_real(z).movedim(-1, 1).flatten(1, 2))


def test_stack_refuses_odd_widths():
    with pytest.raises(ValueError, match="7 channels cannot be split into 2 parts"):
        ComplexStack(7, 2)
