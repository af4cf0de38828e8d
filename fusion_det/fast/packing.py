"""Convolutions and linear layers whose weights lie in the order that oneDNN computes in: the same sums up to rounding, on a CPU.

torch hands oneDNN weights in its own order, which are reordered at every call, and with one thread computes 1x1 convolutions and linear
layers outside it. The operators used here are those that ``torch.compile`` puts in when it freezes weights; torch does not document them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from fusion_det.fast.replace import replace
from fusion_det.layers import StridedConv2d

Packed = tuple[Tensor, Tensor | None]
"""Weight in oneDNN's order, and bias."""
_WORTH = 4096
"""Inputs of fewer numbers take the usual way, which has fewer steps."""


class _Packing(nn.Module):
    """What packed layers share: their weights by precision, made at the first call that needs them."""

    weight: Tensor
    bias: Any

    def precision(self, x: Tensor) -> torch.dtype | None:
        """What ``x`` is computed in, ``None`` where it has to go the usual way: with gradients, on other devices, in other precisions."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        usual = torch.is_grad_enabled() or not x.is_cpu or x.numel() < _WORTH or dtype not in _precisions()
        return None if usual or not self.weight.is_cpu or self.weight.dtype != torch.float32 else dtype

    def ready(self, x: Tensor) -> Packed | None:
        """Weights for ``x``, if it does not go the usual way."""
        dtype = self.precision(x)
        return None if dtype is None else self.kept(str(dtype), lambda: self._in_order(dtype, x))

    def kept(self, key: str, make: Callable[[], Packed]) -> Packed:
        """What ``make`` makes of the parameters, made anew when they change."""
        packed: dict[str, tuple[Any, Packed]] = self.__dict__.setdefault("_packed", {})
        state = (self.weight.data_ptr(), 0 if self.weight.is_inference() else self.weight._version)
        if key not in packed or packed[key][0] != state:
            packed[key] = state, make()
        return packed[key][1]

    def _in_order(self, dtype: torch.dtype, x: Tensor) -> Packed:
        weight = self.reorder(self.weight.detach().to(dtype), x)
        return weight, None if self.bias is None else self.bias.detach().to(dtype).contiguous()

    def reorder(self, weight: Tensor, x: Tensor) -> Tensor:
        """``weight`` in oneDNN's order, best for inputs of the size of ``x``, right for all."""
        raise NotImplementedError(f"{type(self).__name__} does not implement reorder()")

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_packed"}  # such tensors cannot be copied


class PackedConv2d(_Packing, nn.Conv2d):
    """The convolution ``conv``, with the very same parameters, and ``relu`` after it if so. Results are NHWC in memory."""

    relu = False

    def __init__(self, conv: nn.Conv2d) -> None:
        kernel, stride, padding, dilation = conv.kernel_size, conv.stride, conv.padding, conv.dilation
        super().__init__(conv.in_channels, conv.out_channels, kernel, stride, padding, dilation, conv.groups, device="meta")  # type: ignore[arg-type]
        self.weight, self.bias = conv.weight, conv.bias
        if isinstance(conv, PackedConv2d):
            self.relu = conv.relu

    def reorder(self, weight: Tensor, x: Tensor) -> Tensor:
        shape = (self.padding, self.stride, self.dilation, self.groups)
        return torch.ops.mkldnn._reorder_convolution_weight(weight, *shape, list(x.shape))

    def forward(self, input: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H', W']."""
        ready = self.ready(input)
        if ready is None or input.dim() != 4:
            return super().forward(input).relu() if self.relu else super().forward(input)
        shape = (self.padding, self.stride, self.dilation, self.groups)
        return torch.ops.mkldnn._convolution_pointwise(input.to(ready[0].dtype), *ready, *shape, "relu" if self.relu else "none", [], "")


class PackedLinear(_Packing, nn.Linear):
    """The layer ``linear``, with the very same parameters."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias

    def reorder(self, weight: Tensor, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight)

    def forward(self, input: Tensor) -> Tensor:
        """[..., C_in] -> [..., C_out]."""
        ready = self.ready(input)
        if ready is None:
            return super().forward(input)
        return torch.ops.mkldnn._linear_pointwise(input.to(ready[0].dtype), *ready, "none", [], "")


def pack_layers(model: nn.Module) -> int:
    """Let ``model``'s convolutions and linear layers compute with reordered weights, in prediction on a CPU; how many do.

    Parameters and their names stay; the reordered weights take as much memory again, and are made anew when weights change. Only plain
    layers of float32 weights are replaced, and none where this torch has no oneDNN.
    """
    if not _precisions():
        return 0
    found = [module for module in model.modules() if _plain(module)]
    for module in found:
        replace(model, module, PackedConv2d(module) if isinstance(module, nn.Conv2d) else PackedLinear(module))  # type: ignore[arg-type]
    return len(found)


def _plain(module: nn.Module) -> bool:
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    if type(module) is nn.Linear:
        return True
    # StridedConv2d differs from a convolution in its gradient only.
    return type(module) in (nn.Conv2d, StridedConv2d) and module.padding_mode == "zeros" and not isinstance(module.padding, str)


@cache
def _precisions() -> tuple[torch.dtype, ...]:
    """What oneDNN computes in on this machine, through the operators used here."""
    names = ("_reorder_convolution_weight", "_convolution_pointwise", "_reorder_linear_weight", "_linear_pointwise")
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return ()
    known = (torch.float32, torch.bfloat16) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else (torch.float32,)
    return tuple(dtype for dtype in known if _agrees(dtype))


def _agrees(dtype: torch.dtype) -> bool:
    """Whether the operators do here what torch's own do; as they are undocumented, another torch may have changed them."""
    x = torch.linspace(-1, 1, 1 * 16 * 6 * 6).view(1, 16, 6, 6).to(dtype)
    kernel = torch.linspace(-1, 1, 16 * 16 * 3 * 3).sin().view(16, 16, 3, 3).to(dtype)
    bias, matrix, shape = kernel[:, 0, 0, 0].contiguous(), kernel[:, :, 1, 1].contiguous(), ((1, 1), (2, 2), (1, 1), 1)
    operators = torch.ops.mkldnn
    try:
        packed = operators._reorder_convolution_weight(kernel, *shape, list(x.shape))
        convolved = operators._convolution_pointwise(x, packed, bias, *shape, "relu", [], "")
        rows = x.flatten(2)[0].T.contiguous()
        multiplied = operators._linear_pointwise(rows, operators._reorder_linear_weight(matrix), bias, "none", [], "")
    except (RuntimeError, TypeError):
        return False
    pairs = (
        (convolved, nn.functional.conv2d(x.float(), kernel.float(), bias.float(), 2, 1).relu()),
        (multiplied, nn.functional.linear(rows.float(), matrix.float(), bias.float())),
    )
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    return all(found.shape == right.shape and torch.allclose(found.float(), right, rtol=0.02, atol=tolerance) for found, right in pairs)
