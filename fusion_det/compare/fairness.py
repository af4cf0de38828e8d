"""What else differed: every difference between two arms, judged. A comparison with a fatal one has no verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

from fusion_det.compare.run_record import RunRecord
from fusion_det.config.differences import covers, differing
from fusion_det.config.overrides import split

Kind = Literal["variable", "allowed", "suspicious", "fatal"]
ORDER: tuple[Kind, ...] = ("fatal", "suspicious", "variable", "allowed")
ALLOWED = (
    "name", "run_dir", "resume", "device", "logger", "data.root", "loader.workers", "loader.eval_batch_size", "trainer.log_every",
    "trainer.checkpoint_every", "trainer.keep_checkpoints", "trainer.pictures", "trainer.threads", "seed", "eval.expect", "eval.backend",
)  # fmt: skip
"""Keys that change no result by design."""
FATAL = ("data", "eval")
"""Keys that say what is measured, and how."""
_BRINGS = {"neck": ("neck", "fusion", "block"), "head": ("head", "roi_fusion"), "experiment": ()}
"""Groups whose choice brings options of others along."""
_SUSPECT = {
    "init_from": "another pre-training", "trainer.epochs": "another length of training", "optimizer": "another optimizer or learning rate",
    "schedule": "another schedule", "loader.batch_size": "another batch size", "trainer.precision": "another precision",
    "trainer.eval_every": "more evaluations give more chances for a best epoch", "augment": "another augmentation",
}  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same in two arms."""

    first: str
    second: str
    """The arms."""
    key: str
    values: tuple[Any, Any]
    kind: Kind
    why: str

    def as_dict(self) -> dict[str, Any]:
        """Plain containers."""
        return asdict(self)


def fairness_sheet(
    runs: Sequence[RunRecord], *, variables: Mapping[str, Iterable[str]] | None = None, budget_keys: tuple[str, ...] = ()
) -> list[Difference]:
    """Every difference between any two arms of ``runs``, the worst kinds first.

    ``variables`` are the overrides of each arm, where they are known: what they changed is the variable under study; else the words that
    the runs were started with and that not all share. ``budget_keys`` may differ because the budget says so.
    """
    by_arm: dict[str, dict[int, RunRecord]] = {}
    for run in runs:
        by_arm.setdefault(run.arm, {})[run.seed] = run
    words = variables if variables is not None else typed_differences(runs)
    sheet: list[Difference] = []
    for first, second in combinations(by_arm, 2):
        under_study = keys_under_study([*words.get(first, ()), *words.get(second, ())])
        seeds = sorted(by_arm[first].keys() & by_arm[second].keys())
        pairs = [(by_arm[first][seed], by_arm[second][seed]) for seed in seeds] or [
            (next(iter(by_arm[first].values())), next(iter(by_arm[second].values())))
        ]
        found = {d.key: d for a, b in reversed(pairs) for d in _between(a, b, under_study, budget_keys)}  # the first seed's values are told
        sheet += found.values()
        if by_arm[first].keys() != by_arm[second].keys():
            values = (sorted(by_arm[first]), sorted(by_arm[second]))
            sheet.append(Difference(first, second, "seeds", values, "suspicious", "only the seeds that both have are paired"))
    return sorted(sheet, key=lambda d: ORDER.index(d.kind))


def typed_differences(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """The words of each arm that not every run was started with."""
    shared = set.intersection(*(set(run.words) for run in runs)) if runs else set()
    own = ("seed=", "run_dir=", "resume=")
    return {run.arm: [word for word in run.words if word not in shared and not word.startswith(own)] for run in runs}


def keys_under_study(words: Iterable[str]) -> tuple[str, ...]:
    """The dotted keys that ``words`` may change: ``neck=fpn`` brings fusion and block along."""
    keys: list[str] = []
    for word in words:
        key = split(word).key
        keys += [key, *_BRINGS.get(key, ())]
        if key.startswith("roi_fusion"):
            keys.append(f"head.{key}")
    return tuple(dict.fromkeys(keys))


def _between(a: RunRecord, b: RunRecord, under_study: tuple[str, ...], budget_keys: tuple[str, ...]) -> list[Difference]:
    """The differences between two runs of one seed."""

    def told(key: str, values: tuple[Any, Any], kind: Kind, why: str) -> Difference:
        return Difference(a.arm, b.arm, key, values, kind, why)

    found = [told(key, values, *_judge(key, under_study, budget_keys)) for key, values in differing(a.config, b.config).items()]
    if not a.start or not b.start:
        return found
    for key, values in differing(_facts(a), _facts(b)).items():
        found.append(told(key, values, *_judge_fact(key, a, b, under_study, budget_keys)))
    return found


def _judge(key: str, under_study: tuple[str, ...], budget_keys: tuple[str, ...]) -> tuple[Kind, str]:
    """What kind of difference a config key is, and why."""
    if covers(ALLOWED, key):
        return "allowed", "changes no result by design"
    if covers(FATAL, key) and not (key.startswith("data.") and covers(under_study, key)):
        return "fatal", "another data set or another way of measuring"
    if covers(under_study, key):
        return "variable", "named by the arms"
    if covers(budget_keys, key):
        return "allowed", "set by the budget"
    return "suspicious", next((why for prefix, why in _SUSPECT.items() if covers((prefix,), key)), "not named by the arms")


def _facts(run: RunRecord) -> dict[str, Any]:
    """What a run found and started from, beyond its config."""
    environment = run.environment
    return {
        "validation data": run.start["data"]["val"][:16],
        "training data": run.start["data"]["train"][:16],
        "classes": list(zip(run.start["category_ids"], run.start["class_names"], strict=True)),
        "steps": run.start["steps"],
        "data order": run.start["order"][:16],
        "first batch": run.start["first_batch"][:16],
        "backbone at the start": run.start["weights"]["backbone"][:16],
        "head at the start": run.start["weights"]["head"][:16],
        "hardware": run.start["hardware"],
        "world size": environment.get("world_size"),
        "commit": environment.get("commit"),
        "python": environment.get("python"),
        "packages": dict(environment.get("packages") or {}),
        "numeric precision": run.results.get("precision"),
    }


def _judge_fact(key: str, a: RunRecord, b: RunRecord, under_study: tuple[str, ...], budget_keys: tuple[str, ...]) -> tuple[Kind, str]:
    if key in ("validation data", "classes"):
        return "fatal", "the numbers are about different things"
    if key == "training data":
        return ("variable", "named by the arms") if _touch(under_study, "data") else ("fatal", "trained on other data")
    if key == "steps":
        return ("allowed", "set by the budget") if budget_keys else ("suspicious", "another length of training")
    if a.seed != b.seed and key in ("data order", "first batch", "backbone at the start", "head at the start"):
        return "allowed", "other seeds"
    if key in ("data order", "first batch"):
        named = any(_touch(under_study, part) for part in ("augment", "data", "loader"))
        return ("variable", "named by the arms") if named else ("suspicious", "the runs of one seed are not paired")
    if key.endswith("at the start"):
        part = key.partition(" ")[0]
        if _touch(under_study, part):
            return "variable", "named by the arms"
        if a.start["shapes"][part] != b.start["shapes"][part]:
            return "allowed", "has other shapes, as the neck gives other levels or channels"
        return "suspicious", "the runs of one seed are not paired"
    return "suspicious", "another machine or software may give other numbers"


def _touch(keys: tuple[str, ...], group: str) -> bool:
    """Whether one of ``keys`` is ``group`` or lies inside it."""
    return any(covers((group,), key) for key in keys)


def fatal_reasons(sheet: Sequence[Difference]) -> list[str]:
    """One line per fatal difference."""
    return [f"{d.first} and {d.second}: {d.key} differs ({d.values[0]!r} and {d.values[1]!r}): {d.why}" for d in sheet if d.kind == "fatal"]
