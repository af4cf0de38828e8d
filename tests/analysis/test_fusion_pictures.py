"""Weight bars and gate overlays: the right colours in the right places, and never a huge picture."""

from __future__ import annotations

import pytest
import torch
from probe_cases import make_images

from fusion_det.analysis.canvas import ALARM, colour_map, shorten, text_width
from fusion_det.analysis.fusion_report import FusionReport, SiteReport, WeightSummary
from fusion_det.analysis.gate_overlays import gate_overlays
from fusion_det.analysis.weight_bars import weight_bars
from fusion_det.visualize import PALETTE

INPUTS = ("C4", "M5")


def site(name, weights, inputs=INPUTS, reach=1.0):
    """A site with ``weights`` [B, N, h, w]."""
    mean = weights.mean((0, 2, 3))
    summary = WeightSummary(mean, torch.full_like(mean, 1 / len(inputs)), torch.full_like(mean, reach), 0.5)
    return SiteReport(name, "P4", 16, inputs, "Told", summary, {"weights": weights})


def constant(*values):
    return torch.tensor(values).view(1, -1, 1, 1)


def count(picture, colour):
    """Pixels of exactly this colour."""
    return int((picture == torch.tensor(colour, dtype=torch.uint8)[:, None, None]).all(0).sum())


def test_bars_are_as_long_as_the_shares_and_keep_their_colours():
    picture = weight_bars(FusionReport((site("neck/M4", constant(1.5, 0.5)),), 7))
    first, second = count(picture, PALETTE[0]), count(picture, PALETTE[1])
    swatch = 10 * 10  # in the legend; 14 - 2 rows of the bar lie inside its frame
    assert (first - swatch) / 12 == pytest.approx(0.75 * 560, abs=2)
    assert (second - swatch) / 12 == pytest.approx(0.25 * 560, abs=2)
    assert count(picture, ALARM) == 0
    assert picture.dtype == torch.uint8


def test_dead_inputs_stand_out_and_nodes_that_decide_nothing_are_counted():
    dead = site("neck/M4", constant(1.0, 0.0), reach=0.0)
    assert dead.dead == INPUTS
    silent = SiteReport("neck/M3", "P3", 8, INPUTS, "Add")
    with_footer, without = weight_bars(FusionReport((dead, silent), 1)), weight_bars(FusionReport((dead,), 1))
    assert count(with_footer, ALARM) > 50
    assert with_footer.shape[1] > without.shape[1]
    assert weight_bars(FusionReport((silent,), 1)) is None


def test_many_nodes_stay_one_screen():
    many = tuple(site(f"neck/a_rather_long_name_{i}", constant(*[1.0] * 9), tuple(f"L{k}" for k in range(9))) for i in range(200))
    assert max(weight_bars(FusionReport(many, 1)).shape[1:]) < 2000
    maps = tuple(site(f"neck/{i}", torch.rand(1, 4, 8, 12), ("a", "b", "c", "d")) for i in range(200))
    overlays = gate_overlays(FusionReport(maps, 1, make_images((64, 96))))
    assert overlays.shape[1] <= 1400
    assert overlays.shape[2] <= 1600


def test_heat_lies_where_the_weight_is():
    own = torch.zeros(1, 1, 4, 6)
    own[..., 3:] = 1.0
    images = make_images((64, 96))
    images.pixels.fill_(128)
    report = FusionReport((site("neck/M4", torch.cat([own, 1 - own], dim=1)),), 1, images)
    sheet = gate_overlays(report)
    low, high = (0.7 * colour_map(torch.tensor([[value]])) + 0.3 * 110 for value in (0.0, 1.0))
    row = sheet[:, sheet.shape[1] - 60].float()  # through both tiles, each 260 wide
    found = [next((n for n, c in (("low", low), ("high", high)) if (pixel - c.flatten()).abs().max() < 2), "") for pixel in row.T]
    runs = [name for before, name in zip([None, *found], found, strict=False) if name != before]
    assert runs == ["", "low", "high", "", "high", "low", ""]
    assert found.count("low") == found.count("high") == 260


def test_the_padding_of_a_picture_is_not_drawn():
    weights = torch.zeros(2, 2, 4, 6)
    weights[1, :, 2:] = 1000.0  # under the second picture, which is half as high
    report = FusionReport((site("neck/M4", weights),), 2, make_images((64, 96), (32, 96)))
    unpadded = FusionReport((site("neck/M4", 0 * weights),), 2, report.images)
    assert torch.equal(gate_overlays(report, 1), gate_overlays(unpadded, 1))
    assert gate_overlays(report, 1).shape[1] < gate_overlays(report, 0).shape[1]


def test_which_reports_have_overlays():
    images = make_images((64, 96))
    assert gate_overlays(FusionReport((site("neck/M4", constant(1.0, 0.5)),), 1, images)) is None
    with pytest.raises(ValueError, match="expected a report with maps"):
        gate_overlays(FusionReport((site("neck/M4", constant(1.0, 0.5)),), 1))


def test_colours_get_lighter_and_texts_fit():
    light = colour_map(torch.linspace(0, 1, 50)[None]).mul(torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)[0]
    assert (light.diff() > 0).all()
    assert shorten("short", 500) == "short"
    cut = shorten("a very long name that does not fit", 80)
    assert cut.endswith("...")
    assert 60 < text_width(cut) <= 80
