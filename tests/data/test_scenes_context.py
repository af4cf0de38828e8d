"""The factor context: the cue tells the class of a cross, and nothing but the cue does."""

from dataclasses import replace

import numpy as np
import pytest
from scenes_preset import drawn_alone, preset, tight

from fusion_det.data.scenes.layout import Thing, lay_out
from fusion_det.data.scenes.paint import CROSS_COLOUR, CUE_COLOURS, paint
from fusion_det.data.scenes.render import plan, render
from fusion_det.data.scenes.settings import FACTORS
from fusion_det.data.scenes.shapes import shape_mask


@pytest.mark.parametrize("limits", [(24, 40), (44, 64), (68, 130)])
def test_cue_lies_at_the_set_distance(limits):
    settings = preset("scenes_context", cue_distance=limits)
    crosses = 0
    for index in range(150):
        things = plan(0, "train", index, settings)
        cues = [thing for thing in things if thing.kind == "cue"]
        found = [thing for thing in things if thing.kind in FACTORS["context"]]
        assert len(cues) == (1 if found else 0)
        for cross in found:
            away = np.subtract(cross.box[:2], cues[0].box[:2]) + np.subtract(cross.box[2:], cues[0].box[2:])
            distance = np.hypot(*(away / 2))
            assert limits[0] <= distance <= limits[1]
            assert distance == pytest.approx(cross.cue_distance)
            assert cross.kind == FACTORS["context"][cues[0].label]
        crosses += len(found)
    assert crosses > 150 * 4 * 0.96 * 0.6 * 0.9  # hardly any finds no place


def test_with_several_cues_the_nearest_one_tells():
    settings = preset("scenes_context", cues=2, cue_distance=(24, 40))
    mixed = 0
    for index in range(150):
        things = plan(0, "train", index, settings)
        cues = [thing for thing in things if thing.kind == "cue"]
        crosses = [thing for thing in things if thing.kind in FACTORS["context"]]
        for cross in crosses:
            ways = [(np.add(cue.box[:2], cue.box[2:]) - np.add(cross.box[:2], cross.box[2:])) / 2 for cue in cues]
            distances = [np.hypot(*way) for way in ways]
            nearest = int(np.argmin(distances))
            assert cross.kind == FACTORS["context"][cues[nearest].label]
            assert max(distances) >= 1.5 * min(distances)
        mixed += len({cross.kind for cross in crosses}) == 2
    assert mixed > 10


def test_colour_of_the_cue_is_a_fair_coin():
    plans = [plan(0, "train", index, preset()) for index in range(1500)]
    labels = [thing.label for things in plans for thing in things if thing.kind == "cue"]
    assert len(labels) > 600
    assert np.mean(labels) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(len(labels)))


def test_layout_does_not_depend_on_the_colour_of_the_cue():
    settings = preset()
    for index in range(100):
        red, blue = (lay_out(settings, np.random.default_rng(index), (label,)) for label in (0, 1))
        assert [swapped(thing) for thing in red] == list(blue)


def test_pictures_of_both_classes_differ_in_the_cue_alone():
    settings = preset("scenes_context")
    checked = 0
    for index in range(30):
        things = plan(0, "train", index, settings)
        pictures = [paint(settings, version, np.random.default_rng(index)) for version in (things, [swapped(thing) for thing in things])]
        differs = (pictures[0] != pictures[1]).any(axis=2)
        for cue in (thing for thing in things if thing.kind == "cue"):
            assert tight(differs) == cue.box
            differs[drawn_alone(cue)] = False
            checked += 1
        assert not differs.any()
    assert checked > 20


def swapped(thing: Thing) -> Thing:
    """The same thing as the other class of the factor ``context``."""
    other = dict(zip(FACTORS["context"], reversed(FACTORS["context"]), strict=True))
    return replace(thing, kind=other.get(thing.kind, thing.kind), label=1 - thing.label if thing.kind == "cue" else thing.label)


def test_only_cues_are_red_or_blue_and_all_crosses_look_alike():
    settings = preset(noise=0)
    for index in range(40):
        things = plan(5, "train", index, settings)
        pixels = render(5, "train", index, settings).pixels.astype(int)
        excess = pixels[:, :, [0, 2]].max(axis=2) - pixels[:, :, 1]
        for thing in things:
            x0, y0, x1, y1 = thing.box
            if thing.kind == "cue":
                assert (pixels[(y0 + y1) // 2, (x0 + x1) // 2] == CUE_COLOURS[thing.label]).all()
                excess[y0:y1, x0:x1] = 0
            elif thing.kind in FACTORS["context"]:
                assert (pixels[y0:y1, x0:x1][shape_mask(thing.kind, x1 - x0)] == CROSS_COLOUR).all()
        assert excess.max() <= 40
        assert (CUE_COLOURS.astype(int)[:, [0, 2]].max(axis=1) - CUE_COLOURS[:, 1] > 120).all()
