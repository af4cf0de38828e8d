"""Widths that make an arm cost what the baseline does, and the honest refusal where none does."""

from __future__ import annotations

from functools import cache

import pytest

from fusion_det.compare import matched_cost
from fusion_det.compare.matched_cost import WidthMatch, match_width
from fusion_det.compare.width_search import WidthSearch
from fusion_det.config.cli import load_settings
from fusion_det.config.tools import default_config_dir
from fusion_det.errors import ConfigError

SMALL = [
    "experiment=null", "data.image_size=64", "backbone.stem_width=8", "backbone.widths=[8,16,16,16]", "backbone.depths=[1,1,1,1]",
    "head.norm=none", "head.num_convs=1",
]  # fmt: skip
FPN = [*SMALL, "neck=fpn", "neck.channels=64"]


def search(cost, target, *, own=64, inside=None, tolerance=0.02):
    return WidthSearch({"seed": 3, "neck": {"channels": own, "widths": inside}}, cost, target, tolerance, "FLOPs")


def square(config):
    return float(config["neck"]["channels"] ** 2)


def refuse_but(multiple):
    def cost(config):
        if config["neck"]["channels"] % multiple:
            raise ConfigError(f"channels that {multiple} does not divide", where="neck")
        return square(config)

    return cost


@pytest.mark.parametrize(
    ("target", "width"),
    [
        (64**2, 64),  # as it is
        (65**2 - 50, 64),  # within 2 %
        (160**2, 160),
        (161**2, 160),  # a multiple of 8 is near enough
        (164**2, 164),  # of 4
        (70**2, 70),  # of 2
        (37**2, 37),  # of 1
        (3**2, 3),
        (4000**2, 4000),
    ],
)
def test_the_roundest_width_within_the_tolerance_is_found(target, width):
    tried = []
    found = search(lambda c: (tried.append(c["neck"]["channels"]), square(c))[1], float(target))
    assert found.solve() == width
    assert len(tried) == len(set(tried)) <= 24
    assert found.overrides(width) == ([] if width == 64 else [f"neck.channels={width}"])
    assert found.at(width) == {"seed": 3, "neck": {"channels": width, "widths": None}}


def test_parts_that_take_only_some_widths_are_heard():
    assert search(refuse_but(32), 96.0**2).solve() == 96
    assert search(refuse_but(8), 70.0**2, tolerance=0.07).solve() == 72
    with pytest.raises(ConfigError, match=r"9216 FLOPs \(-7\.8%\) at 96 channels and .* \(\+63\.8%\) at 128 .* that 32 does not"):
        search(refuse_but(32), 1e4).solve()
    with pytest.raises(ConfigError, match=r"64 channels and 5184 FLOPs .* widths between are refused: channels that 8 does not divide"):
        search(refuse_but(8), 67.9**2).solve()
    with pytest.raises(ConfigError, match="channels that 7 does not divide"):
        search(refuse_but(7), 70.0**2).solve()


def test_costs_that_no_width_has():
    with pytest.raises(ConfigError, match=r"neck.channels: costs 100 FLOPs \(-50.0%\) even at 8192 channels; the baseline costs 200 FLOPs"):
        search(lambda c: 100.0, 200.0).solve()
    with pytest.raises(ConfigError, match=r"within 2.0%: 901 FLOPs \(\+80.2%\) at 1 channels -> allow"):
        search(lambda c: 900 + square(c), 500.0).solve()
    with pytest.raises(ConfigError, match=r"no width .*: 9 FLOPs \(-18.2%\) at 3 channels and 16 FLOPs \(\+45.5%\) at 4"):
        search(square, 11.0).solve()
    with pytest.raises(ConfigError, match="neck: has no key channels"):
        search(square, 11.0, own=None)


def test_widths_inside_the_neck_follow_in_proportion():
    def product(config):
        return float(config["neck"]["channels"] * config["neck"]["widths"])

    three = search(product, 252.0 * 84, own=126, inside=42)
    width = three.solve()
    assert width % 3 == 0
    assert three.overrides(width) == [f"neck.channels={width}", f"neck.widths={width // 3}"]
    assert search(square, 1.0, own=64, inside=[16, 40, 64]).overrides(32) == ["neck.channels=32", "neck.widths=[8,20,32]"]
    assert search(square, 1.0, own=64, inside=0.125).overrides(96) == ["neck.channels=96", "neck.widths=0.1875"]
    assert search(square, 1.0, own=64, inside=40).overrides(65) == ["neck.channels=65", "neck.widths=41"]
    assert search(square, 96.0**2, own=64, inside=0.5).solve() == 96
    with pytest.raises(ConfigError, match=r"even at 80 channels"):  # their share of the backbone's is 1 then
        search(square, 96.0**2, own=64, inside=0.8).solve()


@pytest.fixture(autouse=True)
def compose_once(monkeypatch):
    """Composing takes longer than all the rest, and the tests use few configs."""
    monkeypatch.setattr(matched_cost, "load_settings", lambda tool, words, *folders: composed(tool, tuple(words)))


@cache
def composed(tool, words):
    return load_settings(tool, words, default_config_dir())


@pytest.mark.parametrize("by", ["params", "flops"])
def test_a_deeper_neck_gets_narrower(by):
    arm = [*SMALL, "neck=pafpn", "neck.channels=64"]
    found = match_width(FPN, arm, by=by, num_classes=3)
    assert found.own > 1.02 * found.target
    assert found.width < 64
    assert abs(found.difference) <= 0.02
    assert (sum(found.baseline_parts.values()), sum(found.parts.values())) == (found.target, found.matched)
    assert found.parts["backbone"] == found.baseline_parts["backbone"]
    again = match_width(FPN, [*arm, *found.overrides], by=by, num_classes=3)
    assert (again.overrides, again.own, again.matched) == ([], found.matched, found.matched)


def test_an_arm_of_the_same_cost_stays_as_it_is():
    found = match_width(FPN, [*FPN, "neck=none"], num_classes=3)
    assert (found.overrides, found.width, found.difference) == ([], 64, 0.0)


def test_latency_is_relative_and_measured_twice():
    calls = []

    def steady(config):
        calls.append(config["neck"]["channels"])
        return config["neck"]["channels"] / 48

    found = match_width(FPN, FPN, by="latency", num_classes=3, measure=steady)
    assert found.overrides == ["neck.channels=48"]
    assert (found.target, found.own, found.matched) == (1.0, 64 / 48, 1.0)
    assert calls.count(48) == 2
    noise = {64: [1.4], 32: [0.5], 40: [0.8], 48: [1.01, 1.3]}
    with pytest.raises(ConfigError, match=r"measured again, 1\.300 of the baseline's latency: no 2% here now -> let nothing else run"):
        match_width(FPN, FPN, by="latency", num_classes=3, measure=lambda config: noise[config["neck"]["channels"]].pop(0))


def test_the_real_latency_of_equal_detectors_is_about_equal():
    found = match_width(FPN, FPN, by="latency", num_classes=3, device="cpu", tolerance=50.0)
    assert isinstance(found, WidthMatch)
    assert 1 / 50 < found.matched < 50


def test_something_else_that_follows_the_width_is_refused():
    words = [*SMALL, "neck=pafpn", "neck.channels=64", "head.range_factor=${neck.channels}"]
    with pytest.raises(ConfigError, match=r"neck.channels: neck.channels=\d+ changes more than the neck's width, in head"):
        match_width(FPN, words, num_classes=3)
