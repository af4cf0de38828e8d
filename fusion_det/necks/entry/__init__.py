"""How a backbone level comes in: ``Entry(in_channels, channels, *, options)``, forward [B, C_in, H, W] -> [B, C, H, W].

An entry that does not bring the level to ``channels`` says so by an attribute ``out_channels``.
"""

from fusion_det.necks.entry.projection import Projection

__all__ = ["Projection"]
