"""VGG16 with the layers that SSD, ION, HyperNet and MS-CNN read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.backbones.frozen import PartlyFrozen
from fusion_det.backbones.state_file import load_state_file
from fusion_det.backbones.tiny import IMAGENET_MEAN, IMAGENET_STD
from fusion_det.backbones.vgg16_weights import find_weights, fit_names
from fusion_det.structures import LevelSpec

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and number of convolutions of conv1 to conv5."""
FC_WIDTH = 1024
CAFFE_MEAN, CAFFE_STD = (123.0, 117.0, 104.0), (1.0, 1.0, 1.0)


class VGG16(PartlyFrozen):
    """VGG16 (Simonyan and Zisserman, ICLR 2015, arXiv 1409.1556, configuration D), built as deep as its deepest tap and no deeper.

    ``taps``: the layers that become levels, fine to coarse, each after its ReLU: ``conv1_1`` to ``conv5_3``, ``pool5``, ``fc6``, ``fc7``.
    Of one stride only one can be given: conv1 has 1, conv2 2, conv3 4, conv4 8, conv5 16. SSD: conv4_3 and fc7; ION: conv3_3, conv4_3
    and conv5_3; HyperNet: conv1_2, conv3_3 and conv5_3; MS-CNN: conv4_3 and conv5_3 (its conv6_1 is in the neck).
    ``dense_pool5``: pool5 has windows of 3 x 3 and no stride, so that pool5, fc6 and fc7 have stride 16, and fc6 is dilated by 6 (SSD,
    Liu et al., ECCV 2016, arXiv 1512.02325, section 3); otherwise windows of 2 x 2, stride 32 and dilation 3, which reach as far.
    ``ceil_pools``: the poolings, 1 to 5, that round odd sizes up: [3] is torchvision's SSD, [] its VGG16, [1, 2, 3, 4, 5] Caffe.
    ``pixels``: ``imagenet`` normalises as torchvision's classifiers do, ``caffe`` takes (123, 117, 104) off as SSD does; weights belong
    to one of them.
    ``weights``: ``torchvision``, a file, or ``None``; see ``vgg16_weights.py``. ``frozen_stages``: k freezes conv1 to convk, 6 all.

    Names are torchvision's for ``features``; its ``classifier`` becomes ``fc6`` (3 x 3, 1024 channels) and ``fc7`` (1 x 1, 1024).
    """

    def __init__(
        self,
        *,
        taps: list[
            Literal[
                "conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3",
                "conv4_1", "conv4_2", "conv4_3", "conv5_1", "conv5_2", "conv5_3", "pool5", "fc6", "fc7",
            ]
        ],
        dense_pool5: bool,
        ceil_pools: list[PositiveInt],
        pixels: Literal["imagenet", "caffe"],
        weights: str | None,
        frozen_stages: NonNegativeInt,
    ) -> None:  # fmt: skip
        super().__init__()
        if not set(ceil_pools) <= set(range(1, 6)):
            raise ValueError(f"VGG16: ceil_pools {ceil_pools} names poolings out of 1 to 5")
        if frozen_stages > 6:
            raise ValueError(f"VGG16: frozen_stages {frozen_stages} is more than its 6 stages (conv1 to conv5, fc6 and fc7)")
        self.mean, self.std = (CAFFE_MEAN, CAFFE_STD) if pixels == "caffe" else (IMAGENET_MEAN, IMAGENET_STD)
        known = _known_taps(16 if dense_pool5 else 32)
        self.levels = _levels(taps, known)
        self.taps, depth = list(taps), list(known).index(taps[-1])
        self.features, self.places = _make_features(ceil_pools, dense_pool5, set(list(known)[: depth + 1]))
        self.tapped = {self.places[tap] for tap in taps if tap in self.places}
        dilation = 6 if dense_pool5 else 3
        self.fc6 = _make_conv(512, FC_WIDTH, 3, dilation) if taps[-1] in ("fc6", "fc7") else None
        self.fc7 = _make_conv(FC_WIDTH, FC_WIDTH, 1, 1) if taps[-1] == "fc7" else None
        for fc in (self.fc6, self.fc7):
            if fc is not None:
                nn.init.xavier_uniform_(fc.weight)  # as torchvision's SSD; the convolutions as its VGG16
        if weights is not None:
            load_state_file(
                self, find_weights(weights, pixels), network="VGG16", adapt=fit_names,
                optional=lambda name: name.startswith("fc"), ignored=lambda name: name.startswith(("features.", "fc", "classifier.")),
            )  # fmt: skip
        self.freeze(self._stages(frozen_stages))

    def _stages(self, count: int) -> Iterator[nn.Module]:
        """The layers of the first ``count`` stages, as far as they are built."""
        for name, index in self.places.items():
            if name.startswith("conv") and int(name[4]) <= count:
                yield self.features[index - 1]
        if count > 5:
            yield from (layer for layer in (self.fc6, self.fc7) if layer is not None)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised pictures [B, 3, H, W] -> one map per tap, fine to coarse."""
        x, maps = images, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.tapped:
                maps.append(x)
        for name, fc in (("fc6", self.fc6), ("fc7", self.fc7)):
            if fc is not None:
                x = F.relu(fc(x))
                if name in self.taps:
                    maps.append(x)
        return maps


def _known_taps(deepest_stride: int) -> dict[str, LevelSpec]:
    """Every tap in the order of execution, with the level that it gives."""
    shapes = [(f"conv{n}_{i}", width, 1 << (n - 1)) for n, (width, count) in enumerate(STAGES, 1) for i in range(1, count + 1)]
    shapes += [("pool5", 512, deepest_stride), ("fc6", FC_WIDTH, deepest_stride), ("fc7", FC_WIDTH, deepest_stride)]
    return {name: LevelSpec(f"C{stride.bit_length() - 1}", width, stride) for name, width, stride in shapes}


def _levels(taps: Sequence[str], known: dict[str, LevelSpec]) -> tuple[LevelSpec, ...]:
    if not taps:
        raise ValueError("VGG16: expected at least one tap, got none")
    levels = tuple(known[tap] for tap in taps)
    strides = [level.stride for level in levels]
    if strides != sorted(set(strides)):
        given = ", ".join(f"{tap} has {stride}" for tap, stride in zip(taps, strides, strict=True))
        raise ValueError(f"VGG16: the strides of its taps must grow, but {given}")
    return levels


def _make_features(ceil_pools: list[int], dense_pool5: bool, needed: set[str]) -> tuple[nn.Sequential, dict[str, int]]:
    """torchvision's ``features`` as far as ``needed``, and the place of each tap in it."""
    layers: list[nn.Module] = []
    places: dict[str, int] = {}
    channels = 3
    for number, (width, count) in enumerate(STAGES, 1):
        for index in range(1, count + 1):
            if f"conv{number}_{index}" not in needed:
                return nn.Sequential(*layers), places
            layers += [_make_conv(channels, width, 3, 1), nn.ReLU(inplace=True)]
            places[f"conv{number}_{index}"], channels = len(layers) - 1, width
        if number < 5 and f"conv{number + 1}_1" in needed:
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=number in ceil_pools))
    if "pool5" in needed:
        places["pool5"] = len(layers)
        layers.append(nn.MaxPool2d(3, 1, 1) if dense_pool5 else nn.MaxPool2d(2, 2, ceil_mode=5 in ceil_pools))
    return nn.Sequential(*layers), places


def _make_conv(in_channels: int, channels: int, kernel_size: int, dilation: int) -> nn.Conv2d:
    """A convolution that keeps the size, with torchvision's initial weights (kaiming normal, fan out; zero bias)."""
    conv = nn.Conv2d(in_channels, channels, kernel_size, padding=kernel_size // 2 * dilation, dilation=dilation)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv
