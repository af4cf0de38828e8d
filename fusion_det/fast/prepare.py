"""What :func:`fusion_det.load` and the benchmarks do to a detector that is to predict fast."""

from __future__ import annotations

from fusion_det.detector import Detector
from fusion_det.fast.activations import fuse_relus
from fusion_det.fast.folding import fold_norms
from fusion_det.fast.packing import pack_layers
from fusion_det.fast.winograd import use_winograd


def make_fast(detector: Detector, size: tuple[int, int]) -> Detector:
    """``detector``, changed for good: for prediction only, with the same float32 outputs up to rounding.

    BatchNorm is folded (``size``, height and width: see :func:`fold_norms`). On a CPU it also gets NHWC maps, layers with reordered
    weights, which take over the ReLU behind them, and, for wide 3x3 convolutions of large maps, Winograd's algorithm. ``ValueError`` in
    training mode.
    """
    fold_norms(detector, size)
    if detector.mean.is_cpu:
        detector.channels_last()
        pack_layers(detector)
        fuse_relus(detector)
        use_winograd(detector)
    return detector
