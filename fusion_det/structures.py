"""What flows between the parts. Box format, frame and unit are stated here, once.

Legend: B images, G padded ground-truth boxes, N padded detections, C classes, [H, W] rows x columns of the network input.

Frames. *Network frame*: float pixels of the network input; the picture lies in the top left corner and the rest is padding.
*Original frame*: float pixels of the picture as stored (after EXIF turning). Boxes are always ``xyxy`` corner coordinates in float32;
``x`` to the right, ``y`` down, the pixel (0, 0) covering [0, 1) x [0, 1). Only files hold COCO's ``xywh``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn


class LevelSpec(NamedTuple):
    """One feature level: its name (``C3`` for a backbone's stride 8, ``P3`` for a neck's), channel count and stride in input pixels.

    Sequences of levels are ordered fine to coarse (small stride first), everywhere. Two maps of one stride may be levels of their own:
    then the one that the network makes first stands first, and a letter tells them apart (``C5a``, ``C5b``).
    """

    name: str
    channels: int
    stride: int


class FusionSite(NamedTuple):
    """A place in a detector where maps are fused, for probes and pictures; parts that fuse list theirs with ``fusion_sites()``."""

    name: str
    """Unique within the part, such as ``P4_td``."""
    level: str
    """Name of the level, such as ``P4`` for stride 16 in a neck and ``C4`` in a backbone; ``RoI`` for the maps of boxes."""
    stride: int
    """Of the level; of the finest one that boxes are pooled from."""
    inputs: tuple[str, ...]
    """Names of the fused maps, in the operator's order (the node's own first)."""
    operator: nn.Module
    """Its :class:`fusion_det.fusion.operator.FusionOperator`."""
    per_box: bool = False
    """Whether it joins the maps of boxes, [B * R, C, bins, bins], not those of pictures."""


class _OnDevice:
    """Moves every tensor field of a dataclass; other fields are kept as they are."""

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> Self:
        moved = {
            f.name: value.to(device, non_blocking=non_blocking)
            for f in fields(self)  # type: ignore[arg-type]
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)  # type: ignore[type-var]

    def pin_memory(self) -> Self:
        pinned: dict[str, Any] = {
            f.name: value.pin_memory()
            for f in fields(self)  # type: ignore[arg-type]
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **pinned)  # type: ignore[type-var]


@dataclass(frozen=True)
class ImageBatch(_OnDevice):
    """A batch of pictures as uint8, all of one bucket shape; normalised on the device, not before."""

    pixels: Tensor
    """uint8 [B, 3, H, W], RGB, picture at the top left, padding to the right and below."""
    sizes: Tensor
    """int64 [B, 2]: height and width of the picture inside ``pixels`` (network frame)."""
    scales: Tensor
    """float32 [B, 2]: network pixels per original pixel along x and y; original = network / scales."""
    original_sizes: Tensor
    """int64 [B, 2]: height and width of the stored picture (original frame)."""
    image_ids: tuple[int, ...]
    """COCO image ids, in batch order; stay on the host."""

    def __len__(self) -> int:
        return len(self.image_ids)


@dataclass(frozen=True)
class Targets(_OnDevice):
    """Ground truth padded to one G per batch, so that assignment and loss treat the whole batch at once."""

    boxes: Tensor
    """float32 [B, G, 4] xyxy in the network frame; padding rows are zero."""
    labels: Tensor
    """int64 [B, G], contiguous class indices 0..C-1; padding rows are 0."""
    valid: Tensor
    """bool [B, G]: a real object to be found (neither padding nor crowd)."""
    crowd: Tensor
    """bool [B, G]: a crowd region: never a positive, and no negative is taught inside it."""


@dataclass(frozen=True)
class RawDetections(_OnDevice):
    """What a head predicts, before any suppression: candidates of all levels, padded to one N."""

    boxes: Tensor
    """float32 [B, N, 4] xyxy in the network frame, clipped to the picture."""
    scores: Tensor
    """float32 [B, N] in [0, 1]."""
    labels: Tensor
    """int64 [B, N] contiguous class indices."""
    levels: Tensor
    """int64 [B, N]: index of the pyramid level that fired, into ``head.levels``."""
    valid: Tensor
    """bool [B, N]: false for padding and for candidates under the score threshold."""


@dataclass(frozen=True)
class Detections(_OnDevice):
    """Final detections, sorted by falling score within each image and padded to one N."""

    boxes: Tensor
    """float32 [B, N, 4] xyxy; network frame until :meth:`to_original`."""
    scores: Tensor
    """float32 [B, N]."""
    labels: Tensor
    """int64 [B, N] contiguous class indices."""
    levels: Tensor
    """int64 [B, N]: index of the pyramid level that fired."""
    sources: Tensor
    """int64 [B, N]: index of the source (scale, flip or model) that the detection came from; 0 for a single source."""
    valid: Tensor
    """bool [B, N]."""

    def to_original(self, images: ImageBatch) -> Detections:
        """The same detections in the original frame of ``images``, clipped to the stored pictures."""
        boxes = self.boxes / images.scales.repeat(1, 2)[:, None, :]
        limits = images.original_sizes.flip(1).repeat(1, 2)[:, None, :].to(boxes.dtype)
        return replace(self, boxes=torch.minimum(boxes.clamp(min=0), limits))


def check_levels(levels: Sequence[LevelSpec], *, owner: str, one_per_stride: bool = False) -> tuple[LevelSpec, ...]:
    """Levels as a tuple, or a ``ValueError`` if they are none, not fine to coarse, or share a name.

    ``one_per_stride``: refuse levels that share a stride as well, for parts that tell levels apart by their strides.
    """
    strides = [level.stride for level in levels]
    if not levels:
        raise ValueError(f"{owner}: expected at least one level, got none")
    names = [level.name for level in levels]
    if strides != sorted(strides):
        raise ValueError(f"{owner}: expected strides that grow from fine to coarse, got {strides}")
    if len(set(names)) != len(names):
        raise ValueError(f"{owner}: level names repeat: {names}")
    if one_per_stride and len(set(strides)) != len(strides):
        raise ValueError(f"{owner}: expected one level per stride, got {names} at strides {strides}")
    return tuple(levels)
