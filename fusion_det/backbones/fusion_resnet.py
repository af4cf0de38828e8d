"""A ResNet, or a network of Inception-like blocks, whose maps are joined by any fusion operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from fusion_det.backbones.frozen import PartlyFrozen
from fusion_det.backbones.residual import BasicBlock, Bottleneck, InceptionBlock, make_conv
from fusion_det.backbones.state_file import load_state_file
from fusion_det.backbones.tiny import IMAGENET_MEAN, IMAGENET_STD
from fusion_det.structures import FusionSite, LevelSpec

Block = BasicBlock | Bottleneck | InceptionBlock
BLOCKS: dict[str, type[Block]] = {"basic": BasicBlock, "bottleneck": Bottleneck, "inception": InceptionBlock}


class FusionResNet(PartlyFrozen):
    """ResNet (He et al., CVPR 2016, arXiv 1512.03385) with a fusion operator in the place of the addition in its blocks.

    Dai et al., *Attentional Feature Fusion*, WACV 2021, arXiv 2009.14082, fuse at three places: long skips (the neck), short skips (here,
    before the block's last ReLU; Fig. 3b) and branches of one layer (here, ``block="inception"``; Fig. 3a). ``fusion(channels, 2)`` makes
    the operator; every block has its own. With addition and the ResNet blocks this is torchvision's ResNet: the same numbers and names.

    ``join``: the stages (1 is the finest) whose blocks take the operator; the others add. The authors' ImageNet runs fuse in 3 and 4
    only (their logs), which gives the paper's parameter counts; those on CIFAR fuse everywhere.
    ``stem``: ``conv7_pool`` is ResNet's, stride 4 before stage 1; ``conv3``, one 3x3 convolution of stride 2, is for small pictures:
    all levels are twice as fine. ``zero_init``: the last BatchNorm of every residual starts at zero, so that with addition a block starts
    as its shortcut; off as in torchvision, as for other operators (``mean``, ``max``, ``concat``) that is no neutral start.
    The authors' ImageNet runs have it on. Deviation from those: the plain stem and shortcut, where theirs are ResNet-C's and -D's.
    ``weights``: a state dict file with torchvision's names; operators that it lacks keep their initial weights, and a classifier
    (``fc``) is left out. ``frozen_stages``: 1 freezes the stem, k the first k - 1 stages too; ``frozen_norm`` keeps every BatchNorm.
    Neither touches the operators, which no pre-training knows.

    Convolutions are initialised before any operator, so that networks with different operators start alike in all they share.
    """

    mean, std = IMAGENET_MEAN, IMAGENET_STD

    def __init__(
        self,
        *,
        block: Literal["basic", "bottleneck", "inception"],
        depths: list[PositiveInt],
        widths: list[PositiveInt],
        stem: Literal["conv7_pool", "conv3"],
        stem_width: PositiveInt,
        first_stride: PositiveInt,
        fusion: Callable[..., Any],
        join: list[PositiveInt],
        zero_init: bool,
        weights: str | None,
        frozen_stages: NonNegativeInt,
        frozen_norm: bool,
    ) -> None:
        super().__init__()
        if len(widths) != len(depths):
            raise ValueError(f"FusionResNet: widths {widths} and depths {depths} differ in length")
        if not set(join) <= set(range(1, len(depths) + 1)):
            raise ValueError(f"FusionResNet: join {join} names stages out of 1 to {len(depths)}")
        self.pools, self.joined = stem == "conv7_pool", sorted(set(join))
        self.conv1 = make_conv(3, stem_width, 7 if self.pools else 3, 2)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.stages = self._make_stages(BLOCKS[block], stem_width, widths, depths)
        self.levels = self._choose_levels(BLOCKS[block].expansion, widths, first_stride)
        for number in self.joined:
            for place in self._blocks(number):
                place.join = _make_operator(fusion, place.join.channels)
        if zero_init:
            self._zero_residuals(block)
        if weights is not None:
            load_state_file(self, weights, optional=_of_operator, ignored=lambda name: name.startswith("fc.") or _of_operator(name))
        self._freeze(frozen_stages, norms=frozen_norm)

    def _make_stages(self, block: type[Block], channels: int, widths: list[int], depths: list[int]) -> list[str]:
        """``layer1``, ``layer2``, ...: every stage but the first halves the size; their names."""
        names = []
        for number, (width, depth) in enumerate(zip(widths, depths, strict=True), 1):
            blocks: list[nn.Module] = []
            for index in range(depth):
                blocks.append(block(channels, width, 2 if number > 1 and index == 0 else 1))
                channels = width * block.expansion
            names.append(f"layer{number}")
            self.add_module(names[-1], nn.Sequential(*blocks))
        return names

    def _choose_levels(self, expansion: int, widths: list[int], first_stride: int) -> tuple[LevelSpec, ...]:
        levels = [self._level(number, width * expansion) for number, width in enumerate(widths, 1)]
        chosen = tuple(level for level in levels if level.stride >= first_stride)
        if not chosen or chosen[0].stride != first_stride:
            raise ValueError(f"FusionResNet: first_stride {first_stride} is not among its strides {[level.stride for level in levels]}")
        return chosen

    def _level(self, number: int, channels: int) -> LevelSpec:
        exponent = number + (1 if self.pools else 0)
        return LevelSpec(f"C{exponent}", channels, 1 << exponent)

    def _blocks(self, number: int) -> Iterator[Any]:
        yield from self.get_submodule(self.stages[number - 1]).children()

    def _zero_residuals(self, block: str) -> None:
        for number in range(1, len(self.stages) + 1):
            for place in self._blocks(number):
                if place.last_norm is None:
                    raise ValueError(f"FusionResNet: zero_init starts residuals at zero, but block {block} has none; set it to false")
                nn.init.zeros_(place.last_norm.weight)

    def _freeze(self, stages: int, *, norms: bool) -> None:
        parts = [[self.conv1, self.bn1], *([self.get_submodule(name)] for name in self.stages)]
        if stages > len(parts):
            raise ValueError(f"FusionResNet: frozen_stages {stages} is more than the stem and its {len(self.stages)} stages")
        frozen = {id(module) for part in parts[:stages] for root in part for module in root.modules()}
        for name, module in self.named_modules():
            is_leaf = next(module.children(), None) is None
            if is_leaf and not _of_operator(name) and (id(module) in frozen or (norms and isinstance(module, nn.BatchNorm2d))):
                self.freeze([module])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised pictures [B, 3, H, W] -> one map per level, fine to coarse."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        if self.pools:
            x = F.max_pool2d(x, 3, 2, 1)
        maps = []
        for name in self.stages:
            x = self.get_submodule(name)(x)
            maps.append(x)
        return maps[-len(self.levels) :]

    def fusion_sites(self) -> list[FusionSite]:
        """The blocks of the ``join`` stages, in the order of execution: ``C3.0`` is the first one of the stage that gives C3."""
        sites = []
        for number in self.joined:
            level = self._level(number, 0)
            for index, place in enumerate(self._blocks(number)):
                sites.append(FusionSite(f"{level.name}.{index}", level.name, level.stride, place.inputs, place.join))
        return sites


def _make_operator(fusion: Callable[..., Any], channels: int) -> Any:
    operator = fusion(channels, 2)
    given = getattr(operator, "out_channels", channels)
    if given != channels:
        kind = type(operator).__name__
        raise ValueError(f"FusionResNet: {kind} gives {given} channels for {channels} and no block follows to reduce them; use concat")
    return operator


def _of_operator(name: str) -> bool:
    """Whether a parameter or module of that name lies inside a block's operator: ``layer1.0.join.fold...``."""
    return ".join." in f"{name}."
