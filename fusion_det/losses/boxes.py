"""Box losses on a masked, padded batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss


def masked_giou_loss(pred: Tensor, target: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum of 1 - GIoU over the rows where ``mask`` holds (Rezatofighi et al., CVPR 2019, arXiv 1902.09630).

    ``pred`` and ``target`` [..., 4] xyxy in one frame, ``mask`` bool [...], ``weight`` [...]. Masked rows may hold anything finite:
    they are replaced before the division, so that they give neither NaN nor gradient, and no index list (a device sync) is needed.
    """
    unit = torch.tensor([0.0, 0.0, 1.0, 1.0], device=pred.device)
    kept = mask[..., None]
    losses = generalized_box_iou_loss(torch.where(kept, pred.float(), unit), torch.where(kept, target.float(), unit))
    return (losses * weight * mask).sum()
