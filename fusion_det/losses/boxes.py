"""Box losses on a masked, padded batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-7
"""Against boxes without area; torchvision's."""


def masked_giou_loss(pred: Tensor, target: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum of 1 - GIoU over the rows where ``mask`` holds (Rezatofighi et al., CVPR 2019, arXiv 1902.09630).

    ``pred`` and ``target`` [..., 4] xyxy in one frame, ``mask`` bool [...], ``weight`` [...]. Masked rows may hold anything finite:
    they are replaced before the division, so that they give neither NaN nor gradient, and no index list (a device sync) is needed.
    """
    unit = torch.arange(4, device=pred.device, dtype=torch.float32).div(2, rounding_mode="floor")  # (0, 0, 1, 1), made on the device
    kept = mask[..., None]
    losses = giou_loss(torch.where(kept, pred.float(), unit), torch.where(kept, target.float(), unit))
    return (losses * weight * mask).sum()


def giou_loss(pred: Tensor, target: Tensor) -> Tensor:
    """1 - GIoU of boxes [..., 4] xyxy with their counterparts [..., 4] -> [...].

    The same numbers as ``torchvision.ops.generalized_box_iou_loss``, whose index by a mask makes the host wait for the device.
    """
    x0, y0, x1, y1 = pred.unbind(dim=-1)
    x0_target, y0_target, x1_target, y1_target = target.unbind(dim=-1)
    width = torch.minimum(x1, x1_target) - torch.maximum(x0, x0_target)
    height = torch.minimum(y1, y1_target) - torch.maximum(y0, y0_target)
    shared = torch.where((width > 0) & (height > 0), width * height, 0.0)
    union = (x1 - x0) * (y1 - y0) + (x1_target - x0_target) * (y1_target - y0_target) - shared
    hull_width = torch.maximum(x1, x1_target) - torch.minimum(x0, x0_target)
    hull = hull_width * (torch.maximum(y1, y1_target) - torch.minimum(y0, y0_target))
    return 1 - (shared / (union + EPSILON) - (hull - union) / (hull + EPSILON))


def masked_smooth_l1_loss(pred: Tensor, target: Tensor, mask: Tensor, weight: Tensor, *, beta: float) -> Tensor:
    """Weighted sum of smooth L1 over the rows where ``mask`` holds (Girshick, ICCV 2015, arXiv 1504.08083; ``beta`` 0: plain L1).

    ``pred`` and ``target`` [..., 4], ``mask`` bool [...], ``weight`` [...]; targets of masked rows must be finite.
    """
    losses = F.smooth_l1_loss(pred.float(), target.float(), reduction="none", beta=beta)
    return (losses.sum(dim=-1) * weight * mask).sum()
