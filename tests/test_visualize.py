"""Drawing: boxes where they belong, in their class's colour, and never an exception from a bad box."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from fusion_det.visualize import CROWD_COLOR, PALETTE, draw_boxes, grid, save_png, side_by_side

NAMES = ["disc", "square", "triangle"]


def grey(height: int = 400, width: int = 500) -> torch.Tensor:
    return torch.full((3, height, width), 60, dtype=torch.uint8)


def colors_at(picture: torch.Tensor, x: int, y: int) -> tuple[int, ...]:
    return tuple(picture[:, y, x].tolist())


class TestDrawBoxes:
    def test_outline_is_in_the_color_of_the_class_and_the_inside_stays(self):
        image = grey()
        before = image.clone()
        boxes = torch.tensor([[50.0, 60.0, 150.0, 160.0], [250.0, 200.0, 400.0, 350.0]])
        drawn = draw_boxes(image, boxes, torch.tensor([0, 2]), NAMES)
        assert drawn.shape == image.shape
        assert drawn.dtype == torch.uint8
        assert torch.equal(image, before)
        for (x1, y1, x2, y2), color in zip(boxes.int().tolist(), (PALETTE[0], PALETTE[2]), strict=True):
            for x, y in ((x1, (y1 + y2) // 2), (x2, (y1 + y2) // 2), ((x1 + x2) // 2, y2), (x2, y1)):
                assert colors_at(drawn, x, y) == color
            assert torch.equal(drawn[:, y1 + 5 : y2 - 5, x1 + 5 : x2 - 5], image[:, y1 + 5 : y2 - 5, x1 + 5 : x2 - 5])
        assert not torch.equal(drawn[:, 40:59, 50:90], image[:, 40:59, 50:90])  # the label above the box

    def test_label_differs_with_class_name_and_score(self):
        box, label = torch.tensor([[50.0, 60.0, 150.0, 160.0]]), torch.tensor([0])
        pictures = [
            draw_boxes(grey(), box, label, ["disc"]),
            draw_boxes(grey(), box, label, ["duck"]),
            draw_boxes(grey(), box, label, ["disc"], torch.tensor([0.5])),
            draw_boxes(grey(), box, label, ["disc"], torch.tensor([0.9])),
        ]
        for i, first in enumerate(pictures):
            for second in pictures[i + 1 :]:
                assert not torch.equal(first, second)

    def test_crowd_is_grey(self):
        boxes = torch.tensor([[50.0, 60.0, 150.0, 160.0], [250.0, 200.0, 400.0, 350.0]])
        drawn = draw_boxes(grey(), boxes, torch.tensor([0, 1]), NAMES, crowd=torch.tensor([False, True]))
        assert colors_at(drawn, 50, 100) == PALETTE[0]
        assert colors_at(drawn, 250, 300) == CROWD_COLOR

    def test_the_surest_lies_on_top(self):
        boxes = torch.tensor([[50.0, 60.0, 150.0, 160.0]] * 2)
        for scores, top in (([0.9, 0.2], 0), ([0.2, 0.9], 1)):
            drawn = draw_boxes(grey(), boxes, torch.tensor([0, 1]), NAMES, torch.tensor(scores))
            assert colors_at(drawn, 50, 100) == PALETTE[top]

    @pytest.mark.parametrize(
        ("height", "width", "factor"), [(64, 64, 5), (96, 128, 3), (320, 10, 1), (319, 319, 2), (480, 640, 1), (4, 4, 10)]
    )
    def test_small_pictures_are_enlarged_by_a_whole_factor(self, height, width, factor):
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        drawn = draw_boxes(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), NAMES)
        assert drawn.shape == (3, height * factor, width * factor)
        assert torch.equal(drawn[:, ::factor, ::factor], image)

    def test_box_moves_with_the_enlargement(self):
        drawn = draw_boxes(grey(64, 64), torch.tensor([[20.0, 20.0, 40.0, 40.0]]), torch.tensor([1]), NAMES)
        assert colors_at(drawn, 100, 150) == colors_at(drawn, 200, 150) == colors_at(drawn, 150, 200) == PALETTE[1]

    def test_odd_boxes_and_labels_do_not_raise(self):
        inf, nan = float("inf"), float("nan")
        boxes = torch.tensor(
            [
                [nan, 0, 1, 1],
                [0, 0, inf, 5],
                [-50, -50, 1e6, 1e6],
                [30, 30, 10, 10],
                [499, 399, 499, 399],
                [5, 5, 5, 5],
                [600, 600, 700, 700],
            ]
        )
        drawn = draw_boxes(grey(), boxes, torch.tensor([0, 1, 2, 3, 99, 1, 1]), ["a\x1b\n", "", "ümläut 漢字"], torch.rand(7))
        assert drawn.shape == (3, 400, 500)
        assert colors_at(drawn, 499, 200) == PALETTE[2]  # clipped to the picture

    def test_no_boxes_no_warning(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(draw_boxes(grey(), torch.zeros(0, 4), torch.zeros(0), NAMES, torch.zeros(0)), grey())

    def test_wrong_arguments_are_told(self):
        with pytest.raises(ValueError, match="uint8"):
            draw_boxes(torch.rand(3, 10, 10), torch.zeros(0, 4), torch.zeros(0), NAMES)
        with pytest.raises(ValueError, match="for 2 boxes"):
            draw_boxes(grey(), torch.zeros(2, 4), torch.zeros(1), NAMES)

    def test_palette_colors_differ(self):
        distances = [np.abs(np.subtract(a, b)).sum() for i, a in enumerate(PALETTE) for b in PALETTE[i + 1 :]]
        assert min(distances) > 50


class TestSheets:
    def test_grid_places_pictures(self):
        pictures = [
            torch.full((3, 5, 6), 10, dtype=torch.uint8),
            torch.full((3, 8, 4), 20, dtype=torch.uint8),
            torch.full((3, 2, 2), 30, dtype=torch.uint8),
        ]
        sheet = grid(pictures, columns=2, gap=1)
        assert sheet.shape == (3, 2 * 9 + 1, 2 * 7 + 1)
        assert torch.equal(sheet[:, 1:6, 1:7], pictures[0])
        assert torch.equal(sheet[:, 1:9, 8:12], pictures[1])
        assert torch.equal(sheet[:, 10:12, 1:3], pictures[2])
        assert (sheet == 255).sum() == sheet.numel() - sum(picture.numel() for picture in pictures)
        assert grid(pictures).shape == (3, 2 * 12 + 4, 2 * 10 + 4)
        with pytest.raises(ValueError, match="at least one"):
            grid([])

    def test_side_by_side_shows_both_under_captions(self):
        left, right = grey(50, 160), grey(50, 160) + 100
        sheet = side_by_side(left, right)
        assert torch.equal(sheet[:, 24:74, 4:164], left)
        assert torch.equal(sheet[:, 24:74, 168:328], right)
        assert (sheet[:, 4:24, 4:164] < 100).any()
        assert not torch.equal(sheet, side_by_side(left, right, captions=("a", "b")))


def test_png_round_trip(tmp_path):
    picture = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    save_png(tmp_path / "a.png", picture)
    assert np.array_equal(np.array(Image.open(tmp_path / "a.png")), picture.permute(1, 2, 0).numpy())
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
