"""The gathered deformable convolution against torchvision's."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import deform_conv2d

from fusion_det.necks.resample.deformable import modulated_deform_conv


def parts(groups, height, width, spread, window=3, dtype=torch.float32):
    """Map, offsets, mask, weight and bias."""
    torch.manual_seed(0)
    taps = window * window
    x, offset = torch.randn(2, 8, height, width), spread * torch.randn(2, 2 * groups * taps, height, width)
    mask, weight = torch.rand(2, groups * taps, height, width), torch.randn(6, 8, window, window) / 8
    return [part.to(dtype).requires_grad_() for part in (x, offset, mask, weight, torch.randn(6))]


@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.4, 3.0, 1e4])  # exactly on pixels and borders; between them; partly outside; all outside
@pytest.mark.parametrize("groups", [1, 4])
def test_values_and_gradients_are_torchvisions(groups, spread, window):
    ours = parts(groups, 5, 7, spread, window)
    theirs = [part.detach().clone().requires_grad_() for part in ours]
    x, offset, mask, weight, bias = theirs
    expected = deform_conv2d(x, offset, weight, bias, padding=window // 2, mask=mask)
    found = modulated_deform_conv(*ours)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
    gradient = torch.randn_like(expected)
    found.backward(gradient)
    expected.backward(gradient)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine.grad - other.grad).norm() <= 1e-5 * other.grad.norm() + 1e-7


def test_channels_last_maps_give_the_same():
    ours = [part.detach() for part in parts(2, 6, 3, 1.0)]
    permuted = [part.contiguous(memory_format=torch.channels_last) if part.ndim == 4 else part for part in ours]
    assert torch.allclose(modulated_deform_conv(*ours), modulated_deform_conv(*permuted), atol=1e-6)


def test_gradients_by_differences():
    assert torch.autograd.gradcheck(modulated_deform_conv, [p.detach().requires_grad_() for p in parts(2, 2, 3, 1.0, dtype=torch.double)])


def test_a_map_that_is_not_finite_stays_so_without_reading_out_of_the_table():
    x, offset, mask, weight, bias = (part.detach() for part in parts(2, 4, 4, 1.0))
    offset[0, 0, 1, 1] = torch.nan
    found = modulated_deform_conv(x, offset, mask, weight, bias)
    assert found[0, :, 1, 1].isnan().all()
    assert found[1].isfinite().all()


def test_a_second_derivative_is_refused():
    x, *others = parts(1, 3, 3, 0.5)
    (gradient,) = torch.autograd.grad(modulated_deform_conv(x, *others).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()
