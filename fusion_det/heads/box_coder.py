"""Boxes as shifts and stretches of anchors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# The largest stretch: an anchor of 16 pixels becomes at most 1000 (Detectron). Keeps exp finite whatever the network says.
MAX_LOG_STRETCH = math.log(1000.0 / 16)


class BoxCoder:
    """Deltas (dx, dy, dw, dh) between anchors and boxes (Girshick et al., CVPR 2014, arXiv 1311.2524, appendix C).

    ``dx = w_x (x - x_a) / w_a``, ``dw = w_w log(w / w_a)``, the same for y and h, with centres x, y. ``weights`` (w_x, w_y, w_w, w_h) are
    the inverse of SSD's "variances"; 1 in RetinaNet, (10, 10, 5, 5) in SSD and in Fast R-CNN's second stage. Anchors are [A, 4] for
    all images or [..., A, 4]; boxes xyxy; anchors have areas.
    """

    def __init__(self, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> None:
        if len(weights) != 4 or min(weights) <= 0:
            raise ValueError(f"box coder: expected four positive weights, got {list(weights)}")
        self.weights = tuple(float(weight) for weight in weights)

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Boxes [..., A, 4] of positive width and height -> deltas [..., A, 4]."""
        x, y, w, h = _centre_form(boxes)
        ax, ay, aw, ah = _centre_form(anchors)
        wx, wy, ww, wh = self.weights
        return torch.stack([wx * (x - ax) / aw, wy * (y - ay) / ah, ww * torch.log(w / aw), wh * torch.log(h / ah)], dim=-1)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Deltas [..., A, 4] -> boxes [..., A, 4]."""
        ax, ay, aw, ah = _centre_form(anchors)
        dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas.unbind(dim=-1), self.weights, strict=True))
        x, y = dx * aw + ax, dy * ah + ay
        half_w, half_h = 0.5 * dw.clamp(max=MAX_LOG_STRETCH).exp() * aw, 0.5 * dh.clamp(max=MAX_LOG_STRETCH).exp() * ah
        return torch.stack([x - half_w, y - half_h, x + half_w, y + half_h], dim=-1)


def _centre_form(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """xyxy [..., 4] -> centre x, centre y, width, height, each [...]."""
    x0, y0, x1, y1 = boxes.unbind(dim=-1)
    width, height = x1 - x0, y1 - y0
    return x0 + 0.5 * width, y0 + 0.5 * height, width, height
