"""Enlarging by predicted windows."""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.necks.resample.project import Project, factor, match_size

TILE = 8  # old pixels of a row whose new ones are made by one product


class Carafe(nn.Module):
    """Content-Aware ReAssembly of FEatures (Wang et al., ICCV 2019, arXiv 1905.02188, Eq. 1-3), in plain torch.

    Each new pixel is a weighted mean of the ``up_kernel`` x ``up_kernel`` old pixels around the one below it; the weights are
    predicted from the content: 1x1 to ``compressed`` channels, ``encoder_kernel`` convolution, softmax. Layers and layout are those of
    the authors' module (``channel_compressor``, ``content_encoder``); there is one group of channels.
    """

    def __init__(
        self,
        channels: int,
        from_stride: int,
        to_stride: int,
        out_channels: int | None = None,
        *,
        compressed: PositiveInt = 64,
        encoder_kernel: PositiveInt = 3,
        up_kernel: PositiveInt = 5,
    ) -> None:
        super().__init__()
        self.factor = factor("Carafe", from_stride, to_stride, enlarges=True)
        if encoder_kernel % 2 == 0 or up_kernel % 2 == 0:
            raise ValueError(f"resample Carafe: expected odd windows, got encoder_kernel={encoder_kernel} and up_kernel={up_kernel}")
        self.up_kernel = up_kernel
        self.project = Project(channels, out_channels) if out_channels not in (None, channels) else None
        self.channel_compressor = nn.Conv2d(out_channels or channels, compressed, kernel_size=1)
        windows = up_kernel**2 * self.factor**2
        self.content_encoder = nn.Conv2d(compressed, windows, encoder_kernel, padding=encoder_kernel // 2)
        nn.init.xavier_uniform_(self.channel_compressor.weight)
        nn.init.normal_(self.content_encoder.weight, std=0.001)
        for conv in (self.channel_compressor, self.content_encoder):
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, C, H, W] -> [B, C_out, *size]."""
        x = x if self.project is None else self.project(x)
        return match_size(self._reassemble(x, self.content_encoder(self.channel_compressor(x))), size)

    def _reassemble(self, x: Tensor, encoded: Tensor) -> Tensor:
        """Maps [B, C, H, W] and raw weights [B, k*k*r*r, H, W] -> [B, C, r*H, r*W]."""
        batch, channels, height, width = x.shape
        k, r = self.up_kernel, self.factor
        weights = torch.softmax(encoded.view(batch, k * k, r, r, height, width), dim=1).to(x.dtype)  # the layout of pixel_shuffle
        # A product for each piece of a row: its r*r*TILE new pixels from the k*(TILE + k - 1) old ones around it. Most weights in it are
        # zeros, and still it is far faster than gathering a window for each pixel.
        tile = max(TILE, k - 1)
        pieces = -(-width // tile)
        across = F.pad(weights, (0, pieces * tile - width)).unflatten(1, (k, k)).unflatten(6, (pieces, tile))
        band = _skew(across.permute(0, 5, 6, 3, 4, 1, 7, 2)).transpose(5, 6)  # [B, H, pieces, r, r, tile, k, tile + k - 1]
        border = k // 2
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, border, (pieces + 1) * tile - width - border, border, border))
        padded = padded.unflatten(2, (pieces + 1, tile))
        windows = torch.cat([padded[:, :, :-1], padded[:, :, 1:, : k - 1]], dim=3)  # [B, H + k - 1, pieces, tile + k - 1, C]
        around = torch.stack([windows[:, i : i + height] for i in range(k)], dim=3)  # [B, H, pieces, k, tile + k - 1, C]
        mixed = torch.bmm(band.flatten(6).flatten(3, 5).flatten(0, 2), around.flatten(3, 4).flatten(0, 2))
        mixed = mixed.view(batch, height, pieces, r, r, tile, channels).permute(0, 1, 3, 2, 5, 4, 6)
        return mixed.reshape(batch, height * r, pieces * tile * r, channels)[:, :, : width * r].contiguous().permute(0, 3, 1, 2)


def _skew(x: Tensor) -> Tensor:
    """[..., W, k] -> [..., W, W + k - 1]: row i moved to the right by i, zeros elsewhere."""
    width, k = x.shape[-2:]
    return F.pad(x, (0, width)).flatten(-2)[..., : width * (width + k - 1)].unflatten(-1, (width, width + k - 1))
