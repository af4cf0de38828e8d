"""Published weights of VGG16, and how its two large linear layers become convolutions."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from torch import Tensor

from fusion_det.backbones.state_file import KEY
from fusion_det.hub_cache import cached_file

logger = logging.getLogger(__name__)

CACHED = {
    "imagenet": ("vgg16-397923af.pth", "torchvision.models.vgg16(weights='IMAGENET1K_V1')"),
    "caffe": ("vgg16_features-amdegroot-88682ab5.pth", "torchvision.models.vgg16(weights='IMAGENET1K_FEATURES')"),
}
"""File in torch's cache for each way to normalise pixels, and what makes torchvision download it.

The first is torchvision's own training, the second Caffe's network, ported for SSD, whose ``classifier`` holds no values.
"""


def find_weights(weights: str, pixels: str, key: str = KEY) -> str:
    """The path that the value of ``key`` means; ``torchvision`` is the file of torch's cache that goes with ``pixels``."""
    if weights != "torchvision":
        return weights
    name, fetch = CACHED[pixels]
    return str(cached_file(name, where=key, fetch=fetch))


def fit_names(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's state dict, or the ``vgg16_reducedfc.pth`` of ssd.pytorch, under our names.

    torchvision's linear layers are thinned out to fc6 and fc7: every fourth output, and of the 7 x 7 pixels that fc6 sees every third in
    both directions, which its dilation puts back to their distance (Chen et al., DeepLab, arXiv 1412.7062, section 3; Liu et al., ParseNet,
    arXiv 1506.04579). They need fine-tuning: nothing of their ImageNet accuracy is kept. Values that are not finite (the file of Caffe's
    features) are left out, so that fc6 and fc7 keep their initial weights, as in torchvision's SSD.
    """
    state = {}
    for name, value in found.items():
        if match := re.fullmatch(r"(\d+)\.(weight|bias)", name):
            place = {31: "fc6", 33: "fc7"}.get(int(match[1]), f"features.{match[1]}")
            state[f"{place}.{match[2]}"] = value
        else:
            state[name] = value
    thinned = _thin_out(state)
    if any(not value.isfinite().all() for value in thinned.values()):
        logger.info("%s: its classifier holds no numbers; fc6 and fc7 keep their initial weights", KEY)
        return state
    return thinned | state


def _thin_out(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """fc6 and fc7 from ``classifier.0`` [4096, 512 * 7 * 7] and ``classifier.3`` [4096, 4096]; nothing if these are not there."""
    first, second = state.get("classifier.0.weight"), state.get("classifier.3.weight")
    if first is None or second is None or first.shape != (4096, 512 * 7 * 7) or second.shape != (4096, 4096):
        return {}
    return {
        "fc6.weight": first.unflatten(1, (512, 7, 7))[::4, :, ::3, ::3].clone(),
        "fc6.bias": state["classifier.0.bias"][::4].clone(),
        "fc7.weight": second[::4, ::4, None, None].clone(),
        "fc7.bias": state["classifier.3.bias"][::4].clone(),
    }
