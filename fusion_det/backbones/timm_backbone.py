"""Any timm model that gives feature maps, with its levels chosen by stride."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import timm
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from fusion_det.backbones.first_blocks import first_stages, level_names, run_stages
from fusion_det.backbones.frozen import PartlyFrozen
from fusion_det.backbones.weights import load_timm_features
from fusion_det.errors import ConfigError
from fusion_det.structures import LevelSpec


class TimmBackbone(PartlyFrozen):
    """``timm.create_model(name, features_only=True)`` at the given strides.

    A stride may stand twice where the network has blocks (MobileNet, EfficientNet): then the map behind its first block is a level of its
    own, as in torchvision's detectors on MobileNetV3 (:mod:`.first_blocks`): ``[16, 32, 32]`` gives C4, C5a and C5b.
    ``weights``: ``null`` with ``pretrained`` takes timm's own (from its hub or local cache); a file path takes that file;
    ``package:NAME`` takes an installed weight package. ``frozen_stages``: 0 trains everything, k freezes all parameters up to and
    including timm's k-th feature stage (1 is usually the stem). ``frozen_norm``: BatchNorm keeps its pre-trained statistics and affine
    parameters everywhere. Frozen stages keep their BatchNorm statistics as well.
    Families with NHWC features are permuted; models with one stride only (plain ViTs) or a fixed input size are refused.
    """

    def __init__(
        self,
        *,
        name: str,
        strides: list[PositiveInt],
        pretrained: bool,
        weights: str | None,
        frozen_stages: NonNegativeInt,
        frozen_norm: bool,
    ) -> None:
        super().__init__()
        indices = _choose_indices(name, strides)
        self.net = load_timm_features(name, indices, pretrained=pretrained, weights=weights)
        self.channels_last_features = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")
        self.starts = _choose_starts(name, strides)
        channels = _channels(name, indices, self.starts) if self.starts else self.net.feature_info.channels()
        self.levels = tuple(LevelSpec(*level) for level in zip(level_names(strides), channels, strides, strict=True))
        pretrained_cfg: dict[str, Any] = self.net.pretrained_cfg if hasattr(self.net, "pretrained_cfg") else _pretrained_cfg(name)
        self.mean = tuple(255.0 * value for value in pretrained_cfg["mean"])
        self.std = tuple(255.0 * value for value in pretrained_cfg["std"])
        self._freeze_stages(name, frozen_stages)
        if frozen_norm:
            # BatchNorm in evaluation mode is one fused kernel; timm's FrozenBatchNormAct2d costs a fifth of the whole step on a CPU.
            self.freeze(m for m in self.net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))

    def _freeze_stages(self, name: str, stages: int) -> None:
        """Freeze every module that lies, in order of definition, before the end of timm's stage number ``stages``."""
        if not stages:
            return
        names = [info["module"] for info in _meta_model(name).feature_info.info]
        if stages > len(names):
            raise ConfigError(f"{name} has {len(names)} stages, got {stages}", where="backbone.frozen_stages", mend="use a smaller number")
        end = {names[stages - 1], names[stages - 1].replace(".", "_")}  # timm's wrapper flattens dotted names
        leaves = [(path, module) for path, module in self.net.named_modules() if next(module.children(), None) is None]
        last = max(i for i, (path, _) in enumerate(leaves) if any(path == e or path.startswith(f"{e}.") for e in end))
        frozen = {id(module) for _, module in leaves[: last + 1]}
        for module in self.net.modules():
            # A parent counts as frozen, with parameters of its own (ConvNeXt's layer scale), when all of its leaves are.
            if all(id(m) in frozen for m in module.modules() if next(m.children(), None) is None):
                self.freeze([module])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised pictures [B, 3, H, W] -> one NCHW map per level, fine to coarse."""
        maps = run_stages(self.net, images, self.starts) if self.starts else self.net(images)
        return [m.permute(0, 3, 1, 2) for m in maps] if self.channels_last_features else list(maps)


def _meta_model(name: str, **kwargs: Any) -> Any:
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False, features_only=True, **kwargs)


def _pretrained_cfg(name: str) -> dict[str, Any]:
    cfg = timm.get_pretrained_cfg(name)
    return {"mean": cfg.mean, "std": cfg.std}


def _choose_indices(name: str, strides: Sequence[int]) -> tuple[int, ...]:
    """timm's ``out_indices`` for the strides, after a dry run without memory or arithmetic; ``ConfigError`` if it cannot be."""
    if not timm.is_model(name):
        close = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3))
        raise ConfigError(
            f"timm has no model {name!r}", where="backbone.name", mend=f"did you mean {close}?" if close else "see timm.list_models()"
        )
    choose = "choose a hierarchical convolutional family such as resnet50, convnext_tiny or hgnetv2_b2"
    try:
        model = _meta_model(name)
    except (RuntimeError, AttributeError, AssertionError, NotImplementedError, TypeError, ValueError) as error:
        raise ConfigError(f"timm gives no features of {name}: {error}", where="backbone.name", mend=choose) from error
    reductions = list(model.feature_info.reduction())
    if len(set(reductions)) == 1 and len(reductions) > 1:
        fault = f"{name} is a plain transformer: all its maps have stride {reductions[0]}, so there is no pyramid to fuse"
        raise ConfigError(fault, where="backbone.name", mend=choose)
    if not strides or list(strides) != sorted(strides) or any(strides.count(stride) > 2 for stride in strides):
        fault = f"strides {list(strides)} do not grow" if strides else "a backbone without levels"
        raise ConfigError(fault, where="backbone.strides", mend="list them fine to coarse, e.g. [8,16,32]")
    missing = [s for s in strides if s not in reductions]
    if missing:
        raise ConfigError(f"{name} has no stride {missing}", where="backbone.strides", mend=f"use strides out of {reductions}")
    try:
        model.eval()(torch.empty(1, 3, 256, 320, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{name} does not take pictures of any size: {error}", where="backbone.name", mend=choose) from error
    # Some families (DLA, TResNet) leave out their first map by default, so the positions here are not timm's indices.
    return tuple(model.feature_info.out_indices[reductions.index(s)] for s in sorted(set(strides)))


def _choose_starts(name: str, strides: Sequence[int]) -> frozenset[int]:
    """Stages with a first block whose map is wanted, of strides that stand twice; ``ConfigError`` for networks without them."""
    twice = {stride for stride in strides if strides.count(stride) > 1}
    if not twice:
        return frozenset()
    try:
        return first_stages(_meta_model(name), twice)
    except ValueError as error:
        fault = f"strides {list(strides)}: {name} has no second map of stride {', '.join(map(str, sorted(twice)))}: {error}"
        mend = "list each stride once; only MobileNets and EfficientNets have a map behind the first block of a stride"
        raise ConfigError(fault, where="backbone.strides", mend=mend) from error


def _channels(name: str, indices: Sequence[int], starts: frozenset[int]) -> list[int]:
    """Widths of all maps, those of first blocks included."""
    net = _meta_model(name, out_indices=indices).eval()
    return [m.shape[1] for m in run_stages(net, torch.empty(1, 3, 64, 64, device="meta"), starts)]
