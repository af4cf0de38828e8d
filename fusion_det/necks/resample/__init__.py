"""How a map is brought to the size of the node that reads it: ``Resample(channels, from_stride, to_stride[, out_channels], *, options)``.

``forward(x, size)`` takes [B, C, H, W] to [B, C_out, *size], the reader's actual run-time size, so that odd sizes work. A class with
``needs_own = True`` is called as ``forward(x, size, own)`` with the reader's own map [B, C_out, *size].
"""

from fusion_det.necks.resample.resize import Resize

__all__ = ["Resize"]
