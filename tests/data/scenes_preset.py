"""A preset of the generated scenes as settings, for the tests of the generator."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import yaml

from fusion_det.data.scenes.layout import Thing
from fusion_det.data.scenes.paint import draw
from fusion_det.data.scenes.settings import SceneSettings

CONFIGS = Path(__file__).parents[2] / "configs" / "data"


def values_of(name: str) -> dict:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def preset(name: str = "scenes", **changes) -> SceneSettings:
    values = {**values_of(name), **changes}
    return SceneSettings(**{field.name: values[field.name] for field in fields(SceneSettings)})


def tight(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def drawn_alone(thing: Thing) -> np.ndarray:
    """bool [H, W]: what the thing paints, found by painting it on two different grounds: painted pixels are equal on both."""
    colours = np.array([[200, 210, 190], [20, 30, 25]], dtype=np.uint8)
    grounds = [np.full((160, 160, 3), level, dtype=np.uint8) for level in (7, 99)]
    for ground in grounds:
        draw(ground, thing, colours)
    return (grounds[0] == grounds[1]).all(axis=2)
