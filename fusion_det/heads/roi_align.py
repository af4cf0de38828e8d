"""RoIAlign on several levels at once, as one product of a sparse matrix and the maps' rows.

Legend: B images, R boxes per image, K = B * R boxes, P bins per side, S samples per side of a bin, C channels, N rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align as reference_roi_align

from fusion_det.layers import full_precision


def roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    levels: Tensor,
    *,
    strides: Sequence[int],
    bins: int,
    samples: int,
    aligned: bool,
    sparse: bool | None = None,
) -> Tensor:
    """Pool each box from the map of its level by bilinear samples (He et al., ICCV 2017, arXiv 1703.06870): [K, C, P, P].

    ``features``: maps [B, C, H_l, W_l] of ``strides``; ``boxes`` [B, R, 4] xyxy in the network frame; ``levels`` int64 [B, R], indices
    into ``features``. ``samples``: per side of a bin; 0: as many as the bin has pixels. ``aligned``: pixel centres lie at halves
    (Detectron2) and boxes are never widened to a pixel. As in torchvision boxes get no gradient and samples farther than a pixel outside
    the map count as zero. Computed in float32, given in the maps' type. Boxes that are no numbers give results that are none.

    ``sparse``: by the sparse product, whose gradients are the same every time, or by torchvision's kernel, which visits every level with
    every box; ``None``: what was measured to be quicker (benchmarks/roi_align.md): the product on a CPU, if ``samples`` is not 0.
    """
    if len(features) != len(strides):
        raise ValueError(f"roi_align: expected maps of {len(strides)} levels, got {len(features)}")
    if sparse is None:
        sparse = samples > 0 and features[0].device.type != "cuda"
    if sparse and samples < 1:
        raise ValueError("roi_align: the sparse product needs a fixed number of samples, got 0")
    boxes, levels = boxes.detach().float().flatten(0, 1), levels.flatten()
    if not sparse:
        return _by_reference(features, boxes, levels, strides, bins, samples, aligned)
    index, weights = _samples(features, boxes, levels, strides, bins, samples, aligned)
    rows = torch.cat([x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) for x in features]).float()
    pooled = weighted_rows(rows, index, weights).to(features[0].dtype)
    return pooled.view(-1, bins, bins, rows.shape[1]).permute(0, 3, 1, 2)


def _by_reference(
    features: Sequence[Tensor], boxes: Tensor, levels: Tensor, strides: Sequence[int], bins: int, samples: int, aligned: bool
) -> Tensor:
    rows = torch.cat([_images(features[0], boxes).to(boxes.dtype)[:, None], boxes], dim=1)
    pooled: Tensor | None = None
    for i, (x, stride) in enumerate(zip(features, strides, strict=True)):
        found = reference_roi_align(x.float(), rows, bins, 1 / stride, samples if samples > 0 else -1, aligned)
        pooled = found if pooled is None else torch.where((levels == i)[:, None, None, None], found, pooled)
    assert pooled is not None
    return pooled.to(features[0].dtype)


def _images(feature: Tensor, boxes: Tensor) -> Tensor:
    """int64 [K]: the image of each box."""
    batch = feature.shape[0]
    return torch.arange(batch, device=boxes.device).repeat_interleave(len(boxes) // max(batch, 1), output_size=len(boxes))


def _samples(
    features: Sequence[Tensor], boxes: Tensor, levels: Tensor, strides: Sequence[int], bins: int, samples: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    """Rows int32 [K * P * P, M] and their weights float32 [K * P * P, M] that make each bin, M = (2 S)^2.

    Rows are the maps' pixels: level after level, image after image, row by row.
    """
    shapes = [(x.shape[-2], x.shape[-1]) for x in features]
    batch, starts = features[0].shape[0], [0]
    for h, w in shapes:
        starts.append(starts[-1] + batch * h * w)
    image = _images(features[0], boxes)

    def of_level(values: Sequence[float]) -> Tensor:
        """The value of each box's level, [K], without a tensor made of Python numbers: that would be copied from the host each time."""
        found = torch.full_like(levels, values[0], dtype=torch.float32 if isinstance(values[0], float) else torch.int64)
        for i, value in enumerate(values[1:], 1):
            found = torch.where(levels == i, value, found)
        return found

    height, width = of_level([h for h, _ in shapes]), of_level([w for _, w in shapes])
    start = of_level(starts[:-1]) + image * height * width
    corners = boxes * of_level([1 / stride for stride in strides])[:, None] - (0.5 if aligned else 0.0)
    x0, y0, x1, y1 = corners.unbind(dim=1)
    rows, row_weights = _along(y0, y1, height, bins, samples, aligned)  # [K, P, 2 S]
    columns, column_weights = _along(x0, x1, width, bins, samples, aligned)
    rows = start[:, None, None].to(torch.int32) + rows * width[:, None, None].to(torch.int32)
    index = rows[:, :, None, :, None] + columns[:, None, :, None, :]  # [K, P, P, 2 S, 2 S]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    terms = 4 * samples * samples
    return index.reshape(-1, terms), weights.reshape(-1, terms)


def _along(first: Tensor, last: Tensor, size: Tensor, bins: int, samples: int, aligned: bool) -> tuple[Tensor, Tensor]:
    """Of one axis: pixels int32 [K, P, 2 S] and their weights; ``first`` and ``last`` [K]: the boxes' sides in pixels of the map."""
    length = last - first
    if not aligned:
        length = length.clamp(min=1)
    step = (length / bins)[:, None, None]
    bin_ = torch.arange(bins, device=first.device)[:, None]
    part = (torch.arange(samples, device=first.device) + 0.5) / samples
    place = first[:, None, None] + bin_ * step + part * step  # [K, P, S]
    size = size[:, None, None]
    inside = (place >= -1) & (place <= size)
    place = torch.minimum(place.clamp(min=0), size - 1)
    low = place.floor()
    share = place - low
    pixel = low.nan_to_num(0).to(torch.int32)  # of a box that is no number; its weights are none either
    pixels = torch.stack([pixel, torch.minimum(pixel + 1, (size - 1).to(torch.int32))], dim=-1)
    weights = torch.stack([1 - share, share], dim=-1) * (inside / samples)[..., None]
    return pixels.flatten(2), weights.flatten(2)


@torch.library.custom_op("fusion_det::weighted_rows", mutates_args=())
def weighted_rows(rows: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """``y_i = sum_m w_im x_{index_im}``: ``rows`` float32 [N, C], ``index`` int32 [M', M], ``weights`` float32 [M', M] -> [M', C].

    ``rows`` alone gets a gradient: the product with the transposed matrix, whose order of additions is always the same.
    """
    count, terms = index.shape
    if not count or not len(rows):
        return rows.new_zeros(count, rows.shape[1])
    ends = torch.arange(0, count * terms + 1, terms, dtype=torch.int32, device=rows.device)
    return _product(ends, index.flatten(), weights.flatten(), rows)


@weighted_rows.register_fake
def _weighted_rows_shape(rows: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    return rows.new_empty(index.shape[0], rows.shape[1])


@torch.library.custom_op("fusion_det::weighted_rows_backward", mutates_args=())
def _transposed(gradient: Tensor, index: Tensor, weights: Tensor, count: int) -> Tensor:
    """Gradient [N, C] of the N = ``count`` rows from that of the result, [M', C]."""
    if not index.numel():
        return gradient.new_zeros(count, gradient.shape[1])
    found = torch.sort(index.flatten(), stable=True)
    ends = torch.searchsorted(found.values, torch.arange(count + 1, dtype=torch.int32, device=index.device), out_int32=True)
    source = torch.div(found.indices, index.shape[1], rounding_mode="floor").to(torch.int32)
    return _product(ends, source, weights.flatten()[found.indices], gradient.contiguous())


@_transposed.register_fake
def _transposed_shape(gradient: Tensor, index: Tensor, weights: Tensor, count: int) -> Tensor:
    return gradient.new_empty(count, gradient.shape[1])


def _product(ends: Tensor, columns: Tensor, values: Tensor, dense: Tensor) -> Tensor:
    """The matrix whose row i has ``values`` at ``columns``, both from ``ends[i]`` to ``ends[i + 1]``, times ``dense``."""
    with full_precision(dense), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        matrix = torch.sparse_csr_tensor(ends, columns, values, (len(ends) - 1, len(dense)), check_invariants=False)
        # In place of an unset result: `matrix @ dense` fills one and copies it, a third of the time.
        return dense.new_empty(len(ends) - 1, dense.shape[1]).addmm_(matrix, dense, beta=0)


def _save(ctx: object, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    rows, index, weights = inputs
    ctx.save_for_backward(index, weights)  # type: ignore[attr-defined]
    ctx.count = len(rows)  # type: ignore[attr-defined]


def _gradient(ctx: object, gradient: Tensor) -> tuple[Tensor, None, None]:
    index, weights = ctx.saved_tensors  # type: ignore[attr-defined]
    return _transposed(gradient, index, weights, ctx.count), None, None  # type: ignore[attr-defined]


weighted_rows.register_autograd(_gradient, setup_context=_save)
