"""Levels beyond the backbone's deepest one: ``Extra(in_channels, channels, *, options)``, by one mechanism for every topology.

``forward(deepest_input, coarsest)`` takes the deepest backbone map [B, C_in, H, W] and the coarsest map of the neck [B, C, H, W] to
``count`` maps, each of twice the stride of the one before. Used after the fusion (``extra``) and, for necks that fuse further levels
(BiFPN, NAS-FPN, FPG), before it (``deeper``); there ``reads_output`` tells whether the deepest entry is needed. ``widths`` lists
the maps' channels where they are not all ``channels``.
"""

from fusion_det.necks.extra.levels import ExtraLevels

__all__ = ["ExtraLevels"]
