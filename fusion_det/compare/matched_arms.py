"""Matched cost: twins of the arms, with necks as wide as makes the detectors cost what the baseline's does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fusion_det.compare.arms import Arm
from fusion_det.compare.done import read_json
from fusion_det.compare.matched_cost import By, match_width
from fusion_det.compare.plan import Plan, PlannedArm
from fusion_det.config.cli import Folders
from fusion_det.config.files import write_json
from fusion_det.errors import FusionDetError, raise_all

MATCHED = "matched.json"


@dataclass(frozen=True)
class Twin:
    """An arm at another width."""

    arm: Arm
    note: str
    """What it costs, in words."""


def matched_twins(plan: Plan, by: By, folders: Folders, *, classes: Callable[[PlannedArm], int]) -> list[Twin]:
    """A twin of every arm that does not cost what the baseline does, named ``<arm>-<by>``; arms that do need none.

    ``classes`` tells how many classes an arm's data have. The widths are kept in ``matched.json``: a latency is never measured twice alike,
    and a study that goes on must keep its arms. All arms that cannot be matched are told at once.
    """
    path = plan.folder / MATCHED
    known = read_json(path) or {}
    baseline = next(arm for arm in plan.arms if arm.name == plan.baseline)
    twins, faults = [], []
    for arm in plan.arms:
        if arm.training == baseline.training:
            continue
        key = f"{by}-{baseline.training}-{arm.training}"
        if key not in known:
            try:
                found = match_width(
                    baseline.words, arm.words, by=by, num_classes=classes(arm), device=arm.config["device"],
                    config_dir=folders.config_dir, config_dirs=folders.config_dirs,
                )  # fmt: skip
            except FusionDetError as error:
                faults += [type(f)(f.what, where=f"arm {arm.name}: {f.where}", mend=f.mend) for f in getattr(error, "faults", [error])]
                continue
            known[key] = {"overrides": found.overrides, "width": found.width, "difference": found.difference}
            write_json(path, known)
        match = known[key]
        if match["overrides"]:
            note = f"neck.channels={match['width']}, {100 * match['difference']:+.1f} % of the baseline's {by}"
            twins.append(Twin(Arm(f"{arm.name}-{by}", (*arm.arm.words, *match["overrides"])), f"{arm.name}-{by} is {arm.name} at {note}"))
    raise_all(faults)
    return twins
