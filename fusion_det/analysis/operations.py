"""What a forward pass is made of: multiplications that are counted, and every other operation by name.

Convention: 1 MAC (multiplication with addition) = 2 FLOP. Counted by :class:`torch.utils.flop_counter.FlopCounterMode` are convolutions,
linear layers, matrix products and attention; here the product inside a deformable convolution is added. Biases are left out, as usual.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torchvision  # noqa: F401  (registers its operators)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

DEFORMABLE = torch.ops.torchvision.deform_conv2d
LAYERS = frozenset(["convolution", "_convolution", "addmm", "mm", "deform_conv2d"])
"""Operations of convolutions and linear layers, whose outputs are the activations of the literature."""

MOVES = frozenset(
    [
        "view", "_unsafe_view", "reshape", "_reshape_alias", "alias", "detach", "permute", "transpose", "t", "expand", "squeeze",
        "unsqueeze", "slice", "select", "split", "split_with_sizes", "unbind", "stack", "cat", "clone", "copy_", "copy", "_to_copy",
        "lift_fresh", "empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "zeros", "zeros_like",
        "new_zeros", "ones", "ones_like", "new_ones", "full", "full_like", "new_full", "scalar_tensor", "arange", "zero_", "fill_",
        "constant_pad_nd", "gather", "index", "index_select", "repeat", "repeat_interleave", "flip", "roll", "unfold", "as_strided",
        "diagonal", "pixel_shuffle", "im2col", "bernoulli_", "normal_", "uniform_",
    ]
)  # fmt: skip
"""Operations that compute nothing: they only make, move or rename data."""

NAMES = {
    "_unsafe_index": "upsample_nearest2d",  # what the meta device makes of it
    "_native_batch_norm_legit_no_training": "batch_norm",
    "native_batch_norm": "batch_norm",
    "native_group_norm": "group_norm",
    "native_layer_norm": "layer_norm",
    "max_pool2d_with_indices": "max_pool2d",
}
"""Plainer words for some operations; of the others underscores before and after the name are dropped."""


class Uncounted(NamedTuple):
    """An operation that computes something outside the count."""

    calls: int
    elements: int
    """Numbers that all its calls put out."""


@dataclass
class Operations:
    """What happened inside :func:`counting`."""

    flops: int = 0
    activations: int = 0
    """Elements of the outputs of convolutions and linear layers (Radosavovic et al., CVPR 2020, arXiv 2003.13678, section 3.3)."""
    uncounted: dict[str, Uncounted] = field(default_factory=dict)
    """By name; operations of :data:`MOVES` are not in it."""

    def note(self, name: str, elements: int) -> None:
        """Add one call of an operation outside the count."""
        calls, before = self.uncounted.get(name, (0, 0))
        self.uncounted[name] = Uncounted(calls + 1, before + elements)


@contextmanager
def counting() -> Iterator[Operations]:
    """Count what runs inside, on any device, also ``meta``. ``flops`` is set at the end."""
    found = Operations()
    fused_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its one operation for a whole layer would not be counted
    try:
        with _Watch(found), FlopCounterMode(display=False, custom_mapping={DEFORMABLE: _deformable_flops}) as counter:
            yield found
    finally:
        torch.backends.mha.set_fastpath_enabled(fused_attention)
    found.flops = counter.get_total_flops()


class _Watch(TorchDispatchMode):
    """Sees the same calls as the counter inside it, after composed operations were taken apart."""

    def __init__(self, found: Operations) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        packet = getattr(func, "_overloadpacket", func)
        namespace, _, name = str(getattr(func, "_schema", func)).partition("(")[0].partition("::")
        name = (name or namespace).partition(".")[0]
        elements = _elements(result)
        if name in LAYERS:
            self.found.activations += elements
        if packet in flop_registry or packet is DEFORMABLE:
            if packet is DEFORMABLE:
                self.found.note("deform_conv2d: its sampling", elements)
        elif name not in MOVES and namespace != "prim":
            plain = NAMES.get(name, name.strip("_"))
            self.found.note(plain if namespace == "aten" else f"{namespace}::{name}", elements)
        return result


def _elements(result: Any) -> int:
    """Elements of the first tensor of a result; the others are indices or statistics."""
    if isinstance(result, list | tuple):
        result = next((item for item in result if isinstance(item, Tensor)), None)
    return result.numel() if isinstance(result, Tensor) else 0


def _deformable_flops(x: Any, weight: Any, *rest: Any, out_shape: Any, **kwargs: Any) -> int:
    """A convolution's: two for each weight of an output channel and each output element."""
    batch, channels, height, width = out_shape
    _, per_group, *window = weight
    products = per_group
    for side in window:
        products *= side
    return int(2 * batch * channels * height * width * products)
