"""What every fusion of a detector decided, by node: tensors, summaries, and the inputs that do nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from fusion_det.structures import ImageBatch

DEAD_REACH = 1e-3
"""An input is dead if its weight nowhere exceeds this share of the average weight at its node. So small because gates are means over
channels: one channel of 256 that is open lifts a mean to 4e-3."""


@dataclass(frozen=True)
class WeightSummary:
    """What the weights of one node come to. N inputs; padding is left out; each picture counts the same, and in it each position."""

    mean: Tensor
    """float32 [N]: mean weight."""
    wins: Tensor
    """float32 [N]: share of the positions where the input has the largest weight (equal ones share a position)."""
    reach: Tensor
    """float32 [N]: largest weight at any position of any picture, in units of the node's average weight; of operators that draw
    a choice, the largest probability in units of 1/N."""
    entropy: float
    """Mean over positions of the entropy of the weights' shares, divided by log N: 1 if all inputs count the same, 0 if one takes all."""

    @property
    def contested(self) -> bool:
        """Whether the largest weight changes with the position or picture, so that ``wins`` says more than ``mean``."""
        return bool(((self.wins > 0) & (self.wins < 1) & (self.wins != self.wins.max())).any())

    @property
    def shares(self) -> Tensor:
        """float32 [N]: mean weights divided by their sum."""
        size = self.mean.abs()
        return size / size.sum().clamp(min=torch.finfo(size.dtype).tiny)


@dataclass(frozen=True)
class SiteReport:
    """One place where maps are fused. ``summary`` is ``None`` where the operator does not weigh its inputs."""

    name: str
    """Part and node, such as ``neck/P4_td``."""
    level: str
    stride: int
    inputs: tuple[str, ...]
    """Names of the fused maps, the node's own first."""
    operator: str
    """Class name of the operator."""
    summary: WeightSummary | None = None
    probes: Mapping[str, Tensor] = field(default_factory=dict)
    """float32 tensors on the host, as the operator's ``probe()`` names them; empty if nothing is decided, and in reports over a
    whole evaluation, which keep summaries only."""
    per_box: bool = False
    """Whether maps of boxes are joined; their positions are those of all the boxes of a picture, one box below the other."""

    @property
    def weights(self) -> Tensor | None:
        """[B, N, h, w], the mean over channels of the factor on each input, with 1 in place of B, h, w where it does not depend on them."""
        return self.probes.get("weights")

    @property
    def dead(self) -> tuple[str, ...]:
        """Names of the inputs that are as good as switched off everywhere, see :data:`DEAD_REACH`."""
        reach = [] if self.summary is None else self.summary.reach.tolist()
        return tuple(name for name, value in zip(self.inputs, reach, strict=False) if value < DEAD_REACH)


class LevelSummary(NamedTuple):
    """The deciding nodes of one level, added up."""

    nodes: int
    deciding: int
    """How many of them weigh their inputs; the two means are over these, and NaN if there are none."""
    own: float
    """Mean share of the weight that goes to a node's own input, the first one."""
    entropy: float
    dead: int
    """Number of dead inputs."""


@dataclass(frozen=True)
class FusionReport:
    """All sites of a detector, in the order of execution; ``report["neck/P4_td"]`` is one of them."""

    sites: tuple[SiteReport, ...]
    pictures: int
    """How many pictures the summaries are over."""
    images: ImageBatch | None = None
    """The pictures, on the host, where the report keeps maps."""

    def __iter__(self) -> Iterator[SiteReport]:
        return iter(self.sites)

    def __getitem__(self, name: str) -> SiteReport:
        for site in self.sites:
            if site.name == name:
                return site
        raise KeyError(f"no fusion site {name!r}; there are {[site.name for site in self.sites]}")

    @property
    def dead(self) -> list[tuple[SiteReport, str]]:
        """Every (site, input) whose input is dead."""
        return [(site, name) for site in self.sites for name in site.dead]

    def levels(self) -> dict[str, LevelSummary]:
        """Sums by level (``P3``, ``C4``, ...), fine to coarse."""
        by_level: dict[str, list[SiteReport]] = {}
        for site in sorted(self.sites, key=lambda site: site.stride):
            by_level.setdefault(site.level, []).append(site)
        return {level: _sum_up(sites) for level, sites in by_level.items()}

    def scalars(self) -> dict[str, float]:
        """``fusion/<site>/<input>``: mean weight, and ``fusion/<site>/entropy``, of the sites that weigh their inputs."""
        values: dict[str, float] = {}
        for site in self.sites:
            if site.summary is not None:
                means = zip(site.inputs, site.summary.mean.tolist(), strict=True)
                values |= {f"fusion/{site.name}/{name}": mean for name, mean in means}
                values[f"fusion/{site.name}/entropy"] = site.summary.entropy
        return values

    def __str__(self) -> str:
        """A table, one site a line: mean weight of each input and, in brackets, the share of positions where it is the largest."""
        rows = [("node", "stride", "operator", "entropy", "inputs: mean weight (wins)")]
        for site in self.sites:
            entropy = "" if site.summary is None else f"{site.summary.entropy:.2f}"
            inputs = "  ".join(describe_inputs(site)) or f"{', '.join(site.inputs)}: nothing decided"
            rows.append((site.name, str(site.stride), site.operator, entropy, inputs))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip() for row in rows]
        return "\n".join(lines)


def describe_inputs(site: SiteReport) -> list[str]:
    """A short text per input: its name, mean weight, and where it wins or that it is dead; of no input where nothing is decided."""
    if site.summary is None:
        return []
    texts = []
    for name, mean, wins in zip(site.inputs, site.summary.mean.tolist(), site.summary.wins.tolist(), strict=True):
        note = " dead" if name in site.dead else f" ({100 * wins:.0f} %)" if site.summary.contested else ""
        texts.append(f"{name} {mean:.3f}{note}")
    return texts


def _sum_up(sites: list[SiteReport]) -> LevelSummary:
    found = [site.summary for site in sites if site.summary is not None]
    own = torch.tensor([float(summary.shares[0]) for summary in found]).mean().item()
    entropy = torch.tensor([summary.entropy for summary in found]).mean().item()
    return LevelSummary(len(sites), len(found), own, entropy, sum(len(site.dead) for site in sites))
