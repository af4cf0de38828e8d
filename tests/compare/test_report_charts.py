"""Charts of the report: places that follow the values, and TensorBoard entries that can be read."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
import report_cases as cases

from fusion_det.compare.report.charts import Band, Point, cost_chart, forest, pareto_front
from fusion_det.compare.report.hparams import write_hparams
from fusion_det.compare.report.svg import Scale, marker, spread
from fusion_det.compare.report.words import own_words, quantity


def numbers(pattern: str, drawn: str) -> list[tuple[float, ...]]:
    return [tuple(map(float, found.groups())) for found in re.finditer(pattern, drawn)]


def test_forest_places_follow_the_values() -> None:
    values = (-2.0, 0.5, 3.0)
    bands = [Band(f"arm {i}", 1, v, v - 1, v + 1.5, outer=(v - 2, v + 2.5)) for i, v in enumerate(values)]
    drawn = str(forest(bands, "differences", margin=0.3))
    thick = numbers(r'<line x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)" y2="[\d.]+" class="thick"', drawn)
    thin = numbers(r'<line x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)" y2="[\d.]+" class="thin"', drawn)
    ((zero,),) = numbers(r'<line x1="([\d.]+)"[^>]*class="zero"', drawn)
    ((left, width),) = numbers(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"[^>]*class="margin"', drawn)
    unit = (thick[0][1] - thick[0][0]) / 2.5
    assert [(low - zero) / unit for low, _ in thick] == pytest.approx([v - 1 for v in values], abs=0.02)
    assert [(high - zero) / unit for _, high in thin] == pytest.approx([v + 2.5 for v in values], abs=0.02)
    assert (left - zero) / unit == pytest.approx(-0.3, abs=0.02)
    assert width / unit == pytest.approx(0.6, abs=0.02)
    assert all(0 <= end <= 360 for pair in thin for end in pair)


def test_pareto_front_holds_what_nothing_beats() -> None:
    points = [Point(name, 0, cost, value, value, value) for name, cost, value in (("a", 1, 10), ("b", 2, 9), ("c", 2, 12), ("d", 3, 12))]
    assert [point.name for point in pareto_front(points)] == ["a", "c"]
    assert "NaN" not in str(cost_chart(points, "cost", "x", "y"))


def test_scale_and_ticks() -> None:
    scale = Scale.around([0.0, 10.0], 100, 0, room=0)
    assert (scale(0), scale(5), scale(10)) == (100, 50, 0)
    assert scale.ticks(5) == [0, 2, 4, 6, 8, 10]
    same = Scale.around([3.0, 3.0], 0, 100)
    assert same(3.0) == pytest.approx(50)
    assert len(same.ticks()) > 1


def test_texts_are_moved_apart() -> None:
    moved = spread([10, 11, 50, 12], 8, 0, 60)
    ordered = sorted(moved)
    assert all(b - a >= 8 - 1e-9 for a, b in pairwise(ordered))
    assert min(moved) >= 0
    assert max(moved) <= 60


def test_no_two_of_the_first_arms_share_shape_and_colour() -> None:
    signs = {re.sub(r"[\d.]+", "", str(marker(place, 0, 0))) + str(marker(place, 0, 0)) + str((place - 1) % 6) for place in range(1, 24)}
    assert len(signs) == 23


def test_words_and_numbers() -> None:
    assert [quantity(v) for v in (None, 999, 46_715, 3_550_000, 999_900_000)] == ["-", "999", "46.7K", "3.55M", "1000M"]
    given = {"a": ("neck=fpn", "x=1", "seed=0"), "b": ("neck=fpn", "x=2", "seed=0", "run_dir=r")}
    assert own_words(given) == {"a": ("x=1",), "b": ("x=2",)}
    assert own_words({"a": ("neck=fpn",), "b": ("neck=fpn", "x=2")}) == {"a": ("neck=fpn",), "b": ("neck=fpn", "x=2")}


def test_hparams_can_be_read_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    outcome = cases.study(tmp_path, {"add": (0.8, 0.1), "a/<f>": (0.9, 0.06)}, seeds=(0,), images=8, resamples=10)
    assert write_hparams(outcome)
    assert write_hparams(outcome)
    folders = sorted((tmp_path / "tensorboard").iterdir())
    assert [folder.name for folder in folders] == ["000_add_seed0", "001_a_f_seed0"]
    events = EventAccumulator(str(folders[1]))
    events.Reload()
    assert events.Scalars("AP")[0].value == pytest.approx(0.3)
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = metadata.parse_session_start_info_plugin_data(content)
    assert start.hparams["arm"].string_value == "a/<f>"
    assert start.hparams["fusion"].string_value == "a/<f>"
    assert len(list(folders[1].iterdir())) == 1
