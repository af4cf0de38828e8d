"""The plan's picture: everything is in it, nothing overlaps, and it fits a page."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest
import torch
from named_necks import NECKS, SMALL, named_neck

from fusion_det.necks.bands import LONGEST, make_bands
from fusion_det.necks.topologies.bifpn import bifpn
from fusion_det.necks.topologies.fpn import fpn
from fusion_det.structures import LevelSpec

SVG = "{http://www.w3.org/2000/svg}"


def plan_of(name):
    with torch.device("meta"):
        return named_neck(name, SMALL, channels=8).plan


def picture(plan, **labels):
    root = ElementTree.fromstring(plan.draw_svg(**labels))
    boxes = [[float(box.get(key)) for key in ("x", "y", "width", "height")] for box in root.iter(f"{SVG}rect") if box.get("rx")]
    return root, boxes, [text.text for text in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("name", NECKS)
def test_every_map_and_edge_is_drawn_once_and_no_boxes_overlap(name):
    plan = plan_of(name)
    root, boxes, words = picture(plan, operator="a<b", block="conv")
    assert set(plan.entries) | {node.name for node in plan.nodes} <= set(words)
    edges = [path for path in root.iter(f"{SVG}path") if path.get("stroke")]
    assert len(edges) == sum(len(node.inputs) for node in plan.nodes)
    handed_over = sum(len(band.handed_over) for band in make_bands(plan))
    assert len(boxes) == len(plan.entries) + len(plan.nodes) + handed_over
    width, height = float(root.get("width")), float(root.get("height"))
    assert width <= (LONGEST + 1) * 160
    assert all(x >= 0 and y >= 0 and x + w <= width and y + h <= height for x, y, w, h in boxes)
    places = sorted((y, x) for x, y, _, _ in boxes)
    _, _, w, h = boxes[0]
    assert all(y2 - y1 >= h or (y1 == y2 and x2 - x1 >= w) for (y1, x1), (y2, x2) in pairwise(places))


@pytest.mark.parametrize("name", NECKS)
def test_bands_follow_the_order_of_execution(name):
    plan = plan_of(name)
    made = {}
    for number, band in enumerate(make_bands(plan)):
        assert max(band.columns.values()) <= LONGEST
        assert all(band.columns[source] < band.columns[reader] for source, reader in band.edges)
        assert all(made[name] < number for name in band.handed_over)
        made |= {name: number for name in band.columns if name not in band.handed_over}
    assert made.keys() == plan.strides.keys()
    cells = [[(band.columns[name], band.rows[name]) for name in band.columns] for band in make_bands(plan)]
    assert all(len(places) == len(set(places)) for places in cells)


def test_a_repeated_cell_starts_a_band_of_its_own():
    levels = [LevelSpec(f"C{i}", 8, 1 << i) for i in range(3, 8)]
    bands = make_bands(bifpn(levels, repeats=3))
    assert [sorted(band.handed_over) for band in bands] == [[], *[[f"B{i}_{cell}" for i in range(3, 8)] for cell in (1, 2)]]


def test_long_edges_run_beside_the_maps_that_they_pass():
    levels = [LevelSpec(f"C{i}", 8, 1 << i) for i in range(3, 8)]
    (band, *_) = make_bands(bifpn(levels, repeats=1))
    passing = [("C4", "P4"), ("C5", "P5"), ("C6", "P6")]  # C7 to P7 and C3 to P3 meet nobody in their rows
    assert band.tracks == dict.fromkeys(passing, (True, 0))


def test_labels_name_operator_and_block_and_are_escaped():
    _, _, words = picture(fpn(SMALL), operator="a<b", block="Conv3x3")
    assert words.count("a<b") == 2
    assert words.count("Conv3x3") == 3
    _, narrow, _ = picture(fpn(SMALL), operator="Add")
    _, wide, _ = picture(fpn(SMALL), operator="AnOperatorOfAVeryLongName")
    assert wide[0][2] > narrow[0][2]


def test_outputs_have_a_thick_frame():
    root, _, _ = picture(fpn(SMALL))
    assert sum(box.get("stroke-width") == "2.4" for box in root.iter(f"{SVG}rect")) == 3
