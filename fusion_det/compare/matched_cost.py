"""Matched cost: the width at which an arm costs as much as the baseline.

What moves is ``neck.channels``, and with it, in proportion, ``neck.widths`` where the arm sets it. Everything else stands still: the
backbone, all keys of the head, the neck's other keys (repeats, heads of attention, widths that a single part has of its own).

**The head follows.** Heads are as wide as the levels they are given, and in most necks these are as wide as the neck's inside. So what is
matched is the cost of the whole detector, the head's share included, and at another width the head does not start from the baseline's
weights any more. :class:`WidthMatch` tells the cost of each part; raw and matched results belong side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fusion_det.analysis.cost import cost_of, parameters_of
from fusion_det.compare.paired_latency import PairedLatency
from fusion_det.compare.width_search import WidthSearch
from fusion_det.config.cli import load_settings
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.data.buckets import buckets_of
from fusion_det.engine.device import choose_device
from fusion_det.errors import ConfigError
from fusion_det.rehearsal import Size

By = Literal["params", "flops", "latency"]
UNITS = {"params": "parameters", "flops": "FLOPs", "latency": "of the baseline's latency"}


@dataclass(frozen=True)
class WidthMatch:
    """An arm at the width where it costs what the baseline does."""

    overrides: list[str]
    """To be added to the arm's; empty if it costs the same as it is."""
    width: int
    """``neck.channels`` then."""
    by: By
    target: float
    """The baseline's cost: parameters, FLOPs of one picture, or 1 for latency."""
    own: float
    """The arm's at its own width; latency is relative to the baseline's."""
    matched: float
    """The arm's at ``width``."""
    baseline_parts: dict[str, int]
    """The baseline's parameters (of ``by="params"``) or FLOPs in its backbone, neck and head."""
    parts: dict[str, int]
    """The same of the arm at ``width``."""

    @property
    def difference(self) -> float:
        """0.01: the arm costs 1 % more than the baseline."""
        return self.matched / self.target - 1


def match_width(
    baseline: Sequence[str],
    arm: Sequence[str],
    *,
    by: By = "flops",
    tolerance: float = 0.02,
    num_classes: int = 80,
    size: Size | None = None,
    device: str = "auto",
    config_dir: Path | None = None,
    config_dirs: Sequence[str] = (),
    measure: Callable[[Mapping[str, Any]], float] | None = None,
) -> WidthMatch:
    """The width of ``arm`` at which its detector costs what that of ``baseline`` does, within ``tolerance`` (0.02: 2 %).

    Both are all the overrides of a run of ``tools/train.py``, none of which reads data or weights here. ``size``: height and width of the
    pictures (FLOPs, latency); ``None``: the data set's largest. Latency is measured on ``device``, relative to the baseline's
    (``measure``: something else than :class:`PairedLatency` that does that). Widths are multiples of 8 if one of them will do, else of 4,
    2 or 1; of 16, 32 or 64 where the parts take no others. Raises ``ConfigError`` in one line if no width costs the same.
    """
    folder = config_dir or default_config_dir()
    first, second = (load_settings(get_tool("train"), words, folder, config_dirs).plain() for words in (baseline, arm))
    height, width = size or buckets_of(first["data"], first["data"]["image_size"])[0]

    def parts(config: Mapping[str, Any]) -> dict[str, int]:
        if by == "params":
            return parameters_of(config, num_classes)
        return {name: part.flops for name, part in cost_of(config, num_classes, (height, width)).parts.items()}

    counted = parts(first)
    if by == "latency":
        cost = measure or PairedLatency(first, num_classes=num_classes, size=(height, width), device=choose_device(device))
        search = WidthSearch(second, cost, 1.0, tolerance, UNITS[by])
    else:
        search = WidthSearch(second, lambda config: sum(parts(config).values()), sum(counted.values()), tolerance, UNITS[by])
    channels = search.solve()
    if by == "latency":
        _confirm(search, channels, tolerance)
    overrides, found = search.overrides(channels), search.at(channels)
    if overrides:
        _check_effect(load_settings(get_tool("train"), [*arm, *overrides], folder, config_dirs).plain(), found, overrides)
    own = search.cost_at(search.own)
    return WidthMatch(overrides, channels, by, search.target, own, search.cost_at(channels), counted, parts(found))


def _confirm(search: WidthSearch, width: int, tolerance: float) -> None:
    """Measure a latency once more: the best of several noisy numbers looks better than it is."""
    before = search.cost_at(width)
    again = search.measure_again(width)
    if abs(again - 1) > tolerance:
        raise ConfigError(
            f"{width} channels took {before:.3f} and, measured again, {again:.3f} of the baseline's latency: no {tolerance:.0%} here now",
            where="neck.channels",
            mend="let nothing else run, allow a larger tolerance, or match FLOPs",
        )


def _check_effect(composed: Mapping[str, Any], meant: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuse configs in which something else follows ``neck.channels`` by interpolation."""
    if composed != meant:
        changed = [key for key in composed if composed[key] != meant.get(key)]
        raise ConfigError(
            f"{' '.join(overrides)} changes more than the neck's width, in {', '.join(changed)}",
            where="neck.channels",
            mend="give the other keys numbers of their own in the arm",
        )
