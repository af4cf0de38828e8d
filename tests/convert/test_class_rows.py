"""Which class of a foreign classifier serves which class of ours."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection import FCOS_ResNet50_FPN_Weights

from fusion_det.convert.class_rows import match_classes, take_rows

COCO = FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
EIGHTY = [index for index, name in enumerate(COCO) if index and name != "N/A"]


def match(ours, theirs, **options):
    return match_classes(ours, theirs, **({"background": False, "class_names": None, "categories": COCO} | options))


def test_cocos_80_classes_are_those_in_use_of_the_91():
    assert (len(COCO), len(EIGHTY), COCO[90]) == (91, 80, "toothbrush")
    found = match(80, 91)
    assert (found.ours, found.theirs) == (list(range(80)), EIGHTY)
    found = match(81, 91, background=True)
    assert (found.ours, found.theirs) == (list(range(81)), [0, *EIGHTY])


def test_names_choose_and_the_others_keep_their_initial_weights():
    found = match(3, 91, class_names=["Dog", "helmet", "person"])
    assert (found.ours, found.theirs) == ([0, 2], [18, 1])
    assert found.note == "classes: 2 of 3 taken from the 90 of the file by name, the other 1 keep their initial weights"
    found = match(3, 91, class_names=["helmet", "cat"], background=True)
    assert (found.ours, found.theirs) == ([0, 2], [0, 17])
    assert match(80, 91, class_names=[f"thing {i}" for i in range(80)]) is None


@pytest.mark.parametrize(
    ("ours", "theirs", "background", "expected"),
    [
        (4, 5, False, ([0, 1, 2, 3], [1, 2, 3, 4])),  # theirs has background besides
        (5, 5, True, ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])),
        (5, 5, False, ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])),  # labels from 0, or all columns wanted
        (91, 91, False, (list(range(91)), list(range(91)))),
        (91, 91, True, (list(range(91)), list(range(91)))),
        (5, 9, False, None),
        (5, 91, True, None),
    ],
)
def test_files_of_as_many_classes_are_taken_in_order(ours, theirs, background, expected):
    found = match(ours, theirs, background=background)
    assert (found and (found.ours, found.theirs)) == expected


def test_rows_of_every_shape_of_a_cell():
    found = torch.arange(2 * 4.0).view(8, 1)  # two shapes, four columns
    own = torch.full((6, 1), -1.0)
    rows = match(3, 4, categories=["background", "a", "b", "c"], class_names=["c", "x", "a"])
    assert take_rows(own, found, 2, rows).flatten().tolist() == [3, -1, 1, 7, -1, 5]
    assert own.unique() == -1
