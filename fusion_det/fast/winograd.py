"""3x3 convolutions with a quarter of the multiplications: Winograd's algorithm, for prediction in float32 on a CPU.

Source: Lavin and Gray, CVPR 2016, arXiv 1509.09308, F(4x4, 3x3): every 4x4 tile of the output is made of a 6x6 tile of the input, as
``A^T ((G g G^T) * (B^T d B)) A``; the sum over channels of the inner product is 36 matrix products, here one grouped 1x1 convolution.
Interpolation points 0, 1, -1, 2, -2 and infinity. Results differ from the direct sum by about 1e-5 of the largest (float32).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.fast.packing import Packed, PackedConv2d
from fusion_det.fast.replace import replace

KERNEL = (
    (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6), (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
)  # fmt: skip
"""G, that takes a row of a kernel to six numbers."""
CHANNELS, WORK = 128, 3_000_000
"""From how many channels, and products of tiles and channels, it is faster than oneDNN's direct convolution: ``benchmarks/winograd.md``."""
FEWEST = 64
"""Tiles: with fewer oneDNN wants weights in another order, and reorders them at every call (so it does for some larger numbers)."""
MEMORY = 8 * 2**20
"""Bytes that tiles may take at once, so that caches hold them: of 2 to 1000 MiB the best for 128 channels, level for more."""
_GROUPED = ((0, 0), (1, 1), (1, 1), 36)


class WinogradConv2d(PackedConv2d):
    """A 3x3 convolution of stride 1, with the very same parameters, that takes Winograd's way where that is faster."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H', W']."""
        if input.dim() != 4 or self.precision(input) != torch.float32 or not self._worth(input):
            return super().forward(input)
        weight, bias = self.kept(f"winograd, {torch.get_num_threads()} thread(s)", self.transformed)  # oneDNN's order depends on them
        assert bias is not None
        return winograd(input, weight, bias, self.padding, relu=self.relu)  # type: ignore[arg-type]

    def _worth(self, x: Tensor) -> bool:
        rows, columns = (_tiles(x.shape[2 + axis] + 2 * int(self.padding[axis]) - 2) for axis in range(2))
        tiles = x.shape[0] * rows * columns
        return 4 * tiles >= 3 * FEWEST and tiles * self.in_channels * self.out_channels >= WORK

    def transformed(self) -> Packed:
        """The kernels at 36 places [36 C_out, C_in, 1, 1] in oneDNN's order, and the bias at the one that every output has once."""
        kernel = torch.tensor(KERNEL, dtype=torch.float64)
        places = torch.einsum("ia,ocab,jb->ijoc", kernel, self.weight.detach().double(), kernel).float()
        bias = places.new_zeros(6, 6, self.out_channels)
        if self.bias is not None:
            bias[1, 1] = self.bias.detach()
        weight = places.reshape(36 * self.out_channels, self.in_channels, 1, 1)
        return _ordered(weight, FEWEST), bias.flatten()


def use_winograd(model: nn.Module) -> int:
    """Let ``model``'s packed convolutions (:func:`~fusion_det.fast.packing.pack_layers`) take Winograd's way where they can; how many can.

    Their weights for it take four times as much memory again, made at the first picture that is large enough. None where the processor has
    no AVX-512, as it was measured on no other.
    """
    if not _fit():
        return 0
    found = [module for module in model.modules() if type(module) is PackedConv2d and _can(module)]
    for module in found:
        replace(model, module, WinogradConv2d(module))
    return len(found)


def _can(conv: nn.Conv2d) -> bool:
    plain = conv.kernel_size == (3, 3) and conv.stride == conv.dilation == (1, 1) and conv.groups == 1
    return plain and min(conv.in_channels, conv.out_channels) >= CHANNELS


@cache
def _fit() -> bool:
    """Whether this processor is of the measured kind, and oneDNN orders weights alike for all numbers of tiles."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    weight = torch.zeros(36 * CHANNELS, CHANNELS, 1, 1)
    try:
        return torch.equal(*(_order(_ordered(weight, count)) for count in (FEWEST, 4096)))
    except (AttributeError, RuntimeError, TypeError):
        return False


def _ordered(weight: Tensor, count: int) -> Tensor:
    """``weight`` [36 C_out, C_in, 1, 1] in the order that oneDNN wants for ``count`` tiles."""
    return torch.ops.mkldnn._reorder_convolution_weight(weight, *_GROUPED, [1, 36 * weight.shape[1], count, 1])


def _order(weight: Tensor) -> Tensor:
    """What the order of ``weight`` is, as numbers."""
    return torch.ops.mkldnn._get_mkldnn_serialized_md(weight)


@cache
def _suitable(count: int, inputs: int, outputs: int, threads: int) -> int:
    """How many tiles to multiply when there are ``count``: for that many oneDNN has to want weights in the order in which they are kept.

    512 x 512 channels, two threads: 80 tiles take 160 ms, most of it for another order, 96 take 4.
    """
    weight = torch.zeros(36 * outputs, inputs, 1, 1)
    kept, counts = _order(_ordered(weight, FEWEST)), range(max(count, FEWEST), max(count, FEWEST) + 64, 8)
    return next((n for n in counts if torch.equal(_order(_ordered(weight, n)), kept)), counts[0])


def winograd(x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int], *, relu: bool = False) -> Tensor:
    """[B, C_in, H, W] -> [B, C_out, H + 2 padding - 2, W + 2 padding - 2], NHWC in memory; of :meth:`WinogradConv2d.transformed`."""
    batch, channels, high, wide = x.shape
    height, width, outputs = high + 2 * padding[0] - 2, wide + 2 * padding[1] - 2, bias.shape[0] // 36
    rows, columns = _tiles(height), _tiles(width)
    below, right = 4 * rows + 2 - high - padding[0], 4 * columns + 2 - wide - padding[1]
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding[1], right, padding[0], below))
    result = x.new_empty(batch, rows, 4, columns, 4, outputs)
    at_once = max(1, MEMORY // (36 * 4 * (channels + outputs) * columns * batch), -(-FEWEST // (columns * batch)))
    for first in range(0, rows, at_once):
        last = min(first + at_once, rows)
        part = result[:, first:last]
        size = _suitable(batch * (last - first) * columns, channels, outputs, torch.get_num_threads())
        places = _multiply(_into_places(padded[:, 4 * first : 4 * last + 2], last - first, columns, size), size, weight, bias)
        _out_of_places(places, part)
        if relu:
            part.relu_()
    image = result.view(batch, 4 * rows, 4 * columns, outputs)[:, :height, :width].permute(0, 3, 1, 2)
    return image.contiguous(memory_format=torch.channels_last)


def _tiles(size: int) -> int:
    return -(-size // 4)


def _into_places(image: Tensor, rows: int, columns: int, size: int) -> Tensor:
    """``B^T d B``: image [B, 4 rows + 2, 4 columns + 2, C] -> tiles [B, rows, columns, 6, 6, C] in memory for ``size``, 0 behind them."""
    batch, _, across, channels = image.shape
    down = image.new_empty(batch, rows, 6, across, channels)
    _six([image[:, k : k + 4 * rows - 3 : 4] for k in range(6)], down.unbind(2))
    count = batch * rows * columns
    tiles = image.new_empty(size, 6, 6, channels)
    tiles[count:] = 0
    found = tiles[:count].view(batch, rows, columns, 6, 6, channels)
    _six([down[:, :, :, k : k + 4 * columns - 3 : 4] for k in range(6)], found.permute(0, 1, 3, 2, 4, 5).unbind(4))
    return found


def _multiply(tiles: Tensor, size: int, weight: Tensor, bias: Tensor) -> Tensor:
    """Sums over channels at every place: [B, rows, columns, 6, 6, C_in] -> [B, rows, columns, 6, 6, C_out]."""
    count, channels = tiles.shape[:3].numel(), tiles.shape[-1]
    picture = tiles.as_strided((1, 36 * channels, size, 1), (size * 36 * channels, 1, 36 * channels, 36 * channels))
    product = torch.ops.mkldnn._convolution_pointwise(picture, weight, bias, *_GROUPED, "none", [], "")
    return product.permute(0, 2, 3, 1).view(size, 6, 6, -1)[:count].view(*tiles.shape[:-1], -1)


def _out_of_places(places: Tensor, result: Tensor) -> None:
    """``A^T m A``: [B, rows, columns, 6, 6, C] into [B, rows, 4, columns, 4, C]."""
    batch, rows, columns, _, _, channels = places.shape
    down = places.new_empty(batch, rows, columns, 4, 6, channels)
    _four(places.unbind(3), down.unbind(3))
    _four(down.permute(0, 1, 3, 2, 4, 5).unbind(4), result.unbind(4))


def _six(d: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """``B^T d`` of six slices."""
    even, odd = out[0].new_empty(2, *out[0].shape)
    torch.add(d[4], d[2], alpha=-5, out=out[0]).add_(d[0], alpha=4)
    torch.add(d[5], d[3], alpha=-5, out=out[5]).add_(d[1], alpha=4)
    torch.add(d[4], d[2], alpha=-4, out=even)
    torch.add(d[3], d[1], alpha=-4, out=odd)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.sub(d[4], d[2], out=even)
    torch.sub(d[3], d[1], out=odd)
    torch.add(even, odd, alpha=2, out=out[3])
    torch.add(even, odd, alpha=-2, out=out[4])


def _four(m: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    """``A^T m`` of six slices."""
    ones, twos = m[0].new_empty(2, *m[0].shape)
    torch.add(m[1], m[2], out=ones)
    torch.add(m[3], m[4], out=twos)
    torch.add(m[0], ones, out=out[0]).add_(twos)
    torch.add(ones, twos, alpha=4, out=out[2])
    torch.sub(m[1], m[2], out=ones)
    torch.sub(m[3], m[4], out=twos)
    torch.add(ones, twos, alpha=2, out=out[1])
    torch.add(m[5], ones, out=out[3]).add_(twos, alpha=8)
