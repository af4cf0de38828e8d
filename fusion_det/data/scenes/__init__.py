"""Generated data that shows what a fusion neck does, in minutes and with nothing to download. A microscope, not a benchmark.

Each factor is a family of classes that needs one thing a neck is meant to bring: see ``data/README.md``.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

if TYPE_CHECKING:
    from fusion_det.data.sources import DataSource


def scenes(
    *,
    root: str,
    name: str,
    train_images: PositiveInt,
    val_images: PositiveInt,
    image_size: Annotated[int, Field(ge=64)],
    seed: NonNegativeInt,
    objects: tuple[PositiveInt, PositiveInt],
    empty_share: Annotated[float, Field(ge=0, le=1)],
    crowd_share: Annotated[float, Field(ge=0, le=1)],
    plain: NonNegativeFloat,
    detail: NonNegativeFloat,
    context: NonNegativeFloat,
    scale: NonNegativeFloat,
    precision: NonNegativeFloat,
    plain_size: tuple[PositiveInt, PositiveInt],
    detail_size: tuple[PositiveInt, PositiveInt],
    stripe_width: tuple[PositiveInt, PositiveInt],
    cross_size: tuple[PositiveInt, PositiveInt],
    cue_size: tuple[PositiveInt, PositiveInt],
    cue_distance: tuple[PositiveInt, PositiveInt],
    cues: PositiveInt,
    scale_size: tuple[PositiveInt, PositiveInt],
    precision_size: tuple[PositiveInt, PositiveInt],
    gap_margin: tuple[PositiveInt, PositiveInt],
    spacing: NonNegativeInt,
    clutter: NonNegativeInt,
    noise: NonNegativeInt,
) -> DataSource:
    """Generated scenes, written once as COCO files under ``<root>/<name>-<digest of the settings>`` and read like any other COCO data.

    Every key is explained in ``configs/data/scenes.yaml``; sizes and distances are in px of the stored pictures.

    Raises:
        ConfigError: settings that cannot be drawn.
        DataError: the folder cannot be written, or an existing one is not what was written.
    """
    given = locals()
    from fusion_det.data.scenes.settings import SceneSettings
    from fusion_det.data.scenes.writer import ensure_written
    from fusion_det.data.sources import coco

    settings = SceneSettings(**{field.name: given[field.name] for field in fields(SceneSettings)})
    folder = ensure_written(Path(root).expanduser(), name, settings, {"train": train_images, "val": val_images})
    return coco(root=str(folder), train_split="train", val_split="val", image_size=image_size)


scenes.square_pictures = True  # type: ignore[attr-defined]  # so that nobody has to try its networks on other shapes
