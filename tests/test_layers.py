"""Layers that stand in for torch's."""

import pytest
import torch
from torch import nn

from fusion_det.layers import StridedConv2d
from fusion_det.necks.conv import ConvUnit
from fusion_det.necks.extra import ExtraLevels
from fusion_det.necks.extra.ssd import SsdExtras


def gradients(conv: nn.Conv2d, x: torch.Tensor, dtype: torch.dtype) -> list[torch.Tensor]:
    """The output and the gradients of weight and input, in float32."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    conv.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        y = conv(x)
    y.backward(torch.ones_like(y))
    return [t.detach().float().clone() for t in (y, *(p.grad for p in (conv.weight, x) if p.grad is not None))]


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 3), (4, 5), (7, 6)])
@pytest.mark.parametrize("groups", [1, 32])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_strided_convolution_equals_torchs(size: tuple[int, int], groups: int, layout: torch.memory_format) -> None:
    """bf16 as well, where torch's own CPU kernel gives an unset gradient for one pixel."""
    torch.manual_seed(0)
    ours = StridedConv2d(32, 32, 3, 2, 1, groups=groups).to(memory_format=layout)
    torchs = nn.Conv2d(32, 32, 3, 2, 1, groups=groups)
    torchs.load_state_dict(ours.state_dict())
    x = torch.randn(8, 32, *size)
    expected = gradients(torchs, x, torch.float32)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.03)):
        for _ in range(3):
            junk = [torch.full((32, 32, 3, 3), float("nan")) for _ in range(20)]  # what an unset gradient would show
            del junk
            for found, wanted in zip(gradients(ours, x.contiguous(memory_format=layout), dtype), expected, strict=True):
                torch.testing.assert_close(found, wanted, atol=tolerance * float(wanted.abs().max()), rtol=0)


def test_strided_layers_of_the_necks_use_it() -> None:
    extras = [SsdExtras(64, 32), ExtraLevels(64, 32, count=2, kind="conv_on_input"), ConvUnit(8, 8, 3, stride=2)]
    for module in extras:
        strided = [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)]
        assert {type(m) for m in strided} == {StridedConv2d}
