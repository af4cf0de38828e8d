"""Where a token is: two-dimensional sine positions."""

from __future__ import annotations

import torch
from torch import Tensor


def sine_positions(height: int, width: int, channels: int, step: int, device: torch.device) -> Tensor:
    """Sine and cosine of the column, then of the row, C/4 channels each: [height * width, channels], float32, row by row as maps flatten.

    DETR (Carion et al., ECCV 2020, arXiv 2005.12872, appendix A.4) with temperature 10000, not normalised by the map's size. ``step`` is
    the distance of neighbours; coordinates are the centres of step x step cells.
    """
    quarter = channels // 4
    frequencies = 10000 ** (-torch.arange(quarter, dtype=torch.float32, device=device) / quarter)
    columns = (torch.arange(width, dtype=torch.float32, device=device) + 0.5)[:, None] * step * frequencies  # [W, C/4]
    rows = (torch.arange(height, dtype=torch.float32, device=device) + 0.5)[:, None] * step * frequencies  # [H, C/4]
    across = torch.cat([columns.sin(), columns.cos()], dim=1).expand(height, width, -1)
    down = torch.cat([rows.sin(), rows.cos()], dim=1)[:, None].expand(height, width, -1)
    return torch.cat([across, down], dim=2).flatten(0, 1)
