"""VGG16's two large linear layers, as ImageNet taught them, for the head of a box."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fusion_det.backbones.state_file import load_state_file
from fusion_det.backbones.vgg16_weights import find_weights
from fusion_det.errors import CheckpointError

KEY = "head.box_head.weights"
SHAPES = [(512 * 7 * 7, 4096), (4096, 4096)]
"""Inputs and outputs of fc6 and fc7."""


def load_vgg16_linears(linears: nn.Sequential, weights: str) -> None:
    """Copy fc6 and fc7 of torchvision's VGG16 into the two linear layers of ``linears`` (Fast R-CNN, arXiv 1504.08083, section 2.2; ION).

    ``weights``: ``torchvision``, the file of its ImageNet training in torch's cache, or a file of such a state dict. They read 512 channels
    of 7 x 7 and belong to ``backbone.pixels=imagenet``. ``ValueError`` for layers of other sizes, ``CheckpointError`` for a file without
    these numbers, such as that of Caffe's convolutions.
    """
    found = [(layer.in_features, layer.out_features) for layer in linears if isinstance(layer, nn.Linear)]
    if found != SHAPES:
        raise ValueError(f"{KEY}: VGG16's fc6 and fc7 are linear layers of {SHAPES} inputs and outputs, this head has {found}")
    file = find_weights(weights, "imagenet", KEY)
    load_state_file(
        linears, file, key=KEY, network="torchvision's vgg16 with its classifier", optional=lambda name: False,
        ignored=lambda name: True, adapt=lambda state: _rename(state, file),
    )  # fmt: skip


def _rename(state: Mapping[str, Tensor], file: str) -> dict[str, Tensor]:
    names = {f"classifier.{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in ((0, 0), (3, 2)) for kind in ("weight", "bias")}
    found = {ours: state[theirs] for theirs, ours in names.items() if theirs in state}
    if not all(bool(value.isfinite().all()) for value in found.values()):
        mend = "use torchvision's vgg16 of ImageNet (weights=torchvision), or null"
        raise CheckpointError("its classifier holds values that are no numbers", where=f"{KEY}={file}", mend=mend)
    return found
