"""Box losses on a masked, padded batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss


def masked_giou_loss(pred: Tensor, target: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum of 1 - GIoU over the rows where ``mask`` holds (Rezatofighi et al., CVPR 2019, arXiv 1902.09630).

    ``pred`` and ``target`` [..., 4] xyxy in one frame, ``mask`` bool [...], ``weight`` [...]. Masked rows may hold anything finite:
    they are replaced before the division, so that they give neither NaN nor gradient, and no index list (a device sync) is needed.
    """
    unit = torch.arange(4, device=pred.device, dtype=torch.float32).div(2, rounding_mode="floor")  # (0, 0, 1, 1), made on the device
    kept = mask[..., None]
    losses = generalized_box_iou_loss(torch.where(kept, pred.float(), unit), torch.where(kept, target.float(), unit))
    return (losses * weight * mask).sum()


def masked_smooth_l1_loss(pred: Tensor, target: Tensor, mask: Tensor, weight: Tensor, *, beta: float) -> Tensor:
    """Weighted sum of smooth L1 over the rows where ``mask`` holds (Girshick, ICCV 2015, arXiv 1504.08083; ``beta`` 0: plain L1).

    ``pred`` and ``target`` [..., 4], ``mask`` bool [...], ``weight`` [...]; targets of masked rows must be finite.
    """
    losses = F.smooth_l1_loss(pred.float(), target.float(), reduction="none", beta=beta)
    return (losses.sum(dim=-1) * weight * mask).sum()
