"""Pictures of the report: those in which the arms differ most, drawn where the boxes are, small, and never fetched from elsewhere."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import report_cases as cases
from PIL import Image

from fusion_det.compare.insight import gallery as module
from fusion_det.compare.insight.gallery import make_gallery
from fusion_det.compare.insight.gather import Insights
from fusion_det.compare.insight.thumbnails import thumbnails
from fusion_det.compare.judge import judge
from fusion_det.compare.outcome import Outcome
from fusion_det.compare.report.explain import Explained
from fusion_det.compare.report.gallery_part import gallery_section
from fusion_det.compare.report.make_page import make_page
from fusion_det.compare.report.render import html
from fusion_det.compare.run_record import RunRecord
from fusion_det.config.compare_schema import StatisticsSettings

ARM = '<b>"arm'


def study(folder: Path, pictures: Path | None) -> Outcome:
    """The baseline misses the first object of image 3 with both seeds, the arm the second one of image 5 with the second seed only."""
    data = cases.truth(images=8)
    for image in data["images"]:
        image["file_name"] = f"{image['id']}.png"
    by_image = {n: [a for a in data["annotations"] if a["image_id"] == n] for n in range(1, 9)}
    runs = []
    for arm in ("base", ARM):
        for seed in (0, 1):
            missed = by_image[3][0]["id"] if arm == "base" else by_image[5][1]["id"] if seed == 1 else None
            found = [a for a in data["annotations"] if a["id"] != missed]
            records = [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.9 - 0.01 * seed} for a in found]
            records.append({"image_id": 3, "category_id": 1, "bbox": [600, 600, 20, 20], "score": 0.05})  # under the best threshold
            file = folder / f"{len(runs)}.json"
            file.write_text(json.dumps(records))
            runs.append(RunRecord(arm, seed, file, folder, start={"pictures": str(pictures)} if pictures else {}))
    comparison = judge(runs, data, StatisticsSettings(resamples=10), baseline="base")
    return Outcome("x", folder, "base", "AP", {"base": (), ARM: ()}, tuple(runs), comparison=comparison, ground_truth=data)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(1, 9):
        Image.fromarray(rng.integers(0, 255, (640, 640, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def test_the_pictures_with_the_largest_differences_are_chosen(tmp_path, pictures):
    outcome = study(tmp_path, pictures)
    found = make_gallery(outcome)
    assert found is not None
    assert (found.found[ARM].more, found.found[ARM].less, found.found[ARM].wrong) == (1, 0.5, 0)
    assert [(s.name, s.gained, s.seed, len(s.differing)) for s in found.shown] == [("3.png", True, 0, 1), ("5.png", False, 1, 1)]
    first = next(a for a in outcome.ground_truth["annotations"] if a["image_id"] == 3)
    ((box, name, base, arm),) = [row for row in found.shown[0].truth if row[2] != row[3]]
    assert (list(box), base, arm) == (pytest.approx(first["bbox"]), False, True)
    assert name == cases.CLASSES[first["category_id"] - 1]
    assert all(score > 0.5 for panel in found.shown[0].panels for _, _, score, _ in panel)


def test_boxes_are_drawn_where_they_are_and_nothing_gets_out(tmp_path, pictures):
    outcome = study(tmp_path, pictures)
    found = make_gallery(outcome)
    section = gallery_section("base", {"base": 0, ARM: 1}, found)
    assert section is not None
    drawn = str(section.charts[0].svg)
    ((x, y, width),) = re.findall(r'class="seen missed"><title>[^<]*</title><rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', drawn)
    box = next(a for a in outcome.ground_truth["annotations"] if a["image_id"] == 3)["bbox"]
    assert (float(x), float(y), float(width)) == pytest.approx((box[0] * 176 / 640, 18 + box[1] * 176 / 640, box[2] * 176 / 640), abs=0.01)
    assert drawn.count("<image ") == drawn.count("<use ") == 1
    shown = html(make_page(outcome, Explained(), {}, Insights(gallery=found)))
    assert not re.search(r'<b>|https?:|href="(?!#|data:)|src=', shown)
    uris = re.findall(r'href="data:image/jpeg;base64,([^"]+)"', shown)
    assert len(uris) == 2
    assert sum(map(len, uris)) < module.MOST_BYTES
    assert [Image.open(io.BytesIO(base64.b64decode(uri))).size for uri in uris] == [(320, 320)] * 2


@pytest.mark.parametrize("limit", [30_000, 9_000])
def test_pictures_get_smaller_and_then_fewer(pictures, limit):
    paths = sorted(pictures.iterdir())
    uris = thumbnails(paths, limit)
    assert sum(map(len, uris)) <= limit
    assert len(uris) < len(paths)
    assert len(thumbnails(paths, 8 * 25_000)) == 8


def test_without_pictures_a_sentence_stands_there(tmp_path, pictures):
    for outcome, said in (
        (study(tmp_path, None), "nothing is known of where the pictures are"),
        (study(tmp_path, tmp_path), f"{tmp_path}/3.png is not there"),
    ):
        section = gallery_section("base", {"base": 0, ARM: 1}, make_gallery(outcome))
        assert section is not None
        assert section.lead[-1] == f"No pictures are shown: {said}."
        assert section.charts == ()
        assert section.tables[0].rows[0][1].text == "1.0"


def test_without_a_comparison_there_is_none(tmp_path, pictures):
    assert make_gallery(replace(study(tmp_path, pictures), comparison=None)) is None
    assert gallery_section("base", {}, None) is None
