"""What follows a fusion: ``Block(channels[, out_channels], *, options)``, forward [B, C, H, W] -> [B, C_out, H, W]."""

from fusion_det.necks.blocks.conv import Conv1x1, Conv3x3, NoBlock

__all__ = ["Conv1x1", "Conv3x3", "NoBlock"]
