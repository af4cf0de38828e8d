"""Reducing by pooling with a fixed window."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.necks.resample.project import Project, factor, match_size


class Pool(nn.Module):
    """Max or average pooling by the factor r between the strides.

    ``window``: ``tile`` is r x r without overlap (NAS-FPN); ``overlap`` is (r + 1) x (r + 1), padded evenly (EfficientDet's PyTorch
    weights); ``same`` is the same window with TensorFlow's SAME padding, more to the right and below (weights ported from
    TensorFlow); ``pixel`` takes every r-th pixel (FPN's P6). Sizes that r does not divide are rounded up. ``padded`` is ``tile`` on a
    map that zeros on all sides make a whole number of windows, as many as the reader has pixels (NAS-FPN in mmcv; differs from
    ``tile`` only where r does not divide the size).
    """

    def __init__(
        self,
        channels: int,
        from_stride: int,
        to_stride: int,
        out_channels: int | None = None,
        *,
        kind: Literal["max", "avg"] = "max",
        window: Literal["tile", "padded", "overlap", "same", "pixel"] = "tile",
    ) -> None:
        super().__init__()
        self.factor = factor("Pool", from_stride, to_stride, enlarges=False)
        self.kind, self.window = kind, window
        self.project = Project(channels, out_channels) if out_channels not in (None, channels) else None

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, C, H, W] -> [B, C_out, *size]."""
        x = x if self.project is None else self.project(x)
        if self.window == "padded":
            return _pool_padded(x, size, self.kind)
        return match_size(pool(x, self.factor, self.kind, self.window), size)


def pool(x: Tensor, factor: int, kind: str, window: str) -> Tensor:
    """[B, C, H, W] -> [B, C, ceil(H / factor), ceil(W / factor)]; the window ``cut`` drops what is left over and rounds down."""
    if window == "pixel":
        return x[..., ::factor, ::factor]
    kernel = factor if window in ("tile", "cut") else factor + 1
    padding = _border(x, factor) if window == "same" else (kernel // 2,) * 2 if window == "overlap" and factor % 2 == 0 else (0, 0)
    ceil = window in ("tile", "same")  # what reaches over the right and lower border is not pooled
    if kind == "max":
        return F.max_pool2d(x, kernel, factor, padding, ceil_mode=ceil)
    return F.avg_pool2d(x, kernel, factor, padding, ceil_mode=ceil, count_include_pad=False)


def _pool_padded(x: Tensor, size: tuple[int, int], kind: str) -> Tensor:
    """[B, C, H, W] -> [B, C, *size] by windows without overlap, after zeros that are shared out evenly."""
    (top, height), (left, width) = ((wanted, -(-have // wanted)) for have, wanted in zip(x.shape[-2:], size, strict=True))
    missing = height * top - x.shape[-2], width * left - x.shape[-1]
    x = F.pad(x, (missing[1] // 2, missing[1] - missing[1] // 2, missing[0] // 2, missing[0] - missing[0] // 2))
    pooling = F.max_pool2d if kind == "max" else F.avg_pool2d
    return pooling(x, (height, width))


def _border(x: Tensor, factor: int) -> tuple[int, int]:
    """Padding above and to the left in TensorFlow's SAME for a window of ``factor + 1``: the smaller half of what is missing."""
    height, width = (max((-(-length // factor) - 1) * factor + factor + 1 - length, 0) // 2 for length in x.shape[-2:])
    return height, width
