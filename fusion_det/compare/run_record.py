"""A finished run as data: everything a comparison reads from its folder, or from a predictions file of any framework."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fusion_det.compare.done import PREDICTIONS, read_config, read_json
from fusion_det.config.run_folder import RESULTS, START, is_finished
from fusion_det.errors import DataError

_AGAIN = "train it again, or compare files: gt=FILE predictions='A=a.json; B=b.json'"


@dataclass(frozen=True)
class RunRecord:
    """One finished run of one arm. What a bare predictions file does not tell is empty."""

    arm: str
    seed: int
    predictions: Path
    folder: Path | None = None
    trained: Path | None = None
    """The folder of its training run, another one if several arms share that."""
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The resolved config of the arm."""
    words: tuple[str, ...] = ()
    """The overrides that it was started with."""
    start: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """``start.json``: data digests, classes, hashes of weights, order and first batch."""
    results: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """``results.json``: the COCO numbers, per class, parameters."""
    environment: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """``environment.json``: versions, commit, machine."""
    history: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """The lines of ``metrics.jsonl`` that hold an evaluation (``step``, ``val/AP``, ...)."""
    seconds: float | None = None
    """Wall time of the training, as far as it is known."""

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.arm}/seed{self.seed}"

    @property
    def best(self) -> dict[str, Any] | None:
        """The best evaluation, ``epoch``, ``summary`` and ``predictions`` (a digest), of a run that was measured as it was trained."""
        best = self.results.get("best")
        told = self.folder is not None and self.folder == self.trained and isinstance(best, dict) and isinstance(best.get("summary"), dict)
        return best if told else None

    @property
    def best_is_last(self) -> bool:
        """Whether the run ended with its best epoch."""
        return self.best is not None and self.best.get("epoch") is not None and self.best["epoch"] == self.results.get("epoch")

    @property
    def evaluations(self) -> int:
        """How often the run was evaluated; what a crash made it repeat counts once. 0: unknown."""
        return len({line["step"] for line in self.history})

    @property
    def digest(self) -> str:
        """SHA-256 of the predictions file."""
        return hashlib.sha256(self.predictions.read_bytes()).hexdigest()


def read_run(folder: Path, arm: str, *, seconds: float | None = None) -> RunRecord:
    """The record of a finished training run. ``DataError`` for a folder that is missing, unfinished or of an older version."""
    config = _finished(folder)
    start = read_json(folder / START)
    if start is None or start.get("format") != 1:
        what = f"{START} is missing: the folder is of an older version" if start is None else f"{START} has format {start.get('format')}"
        raise DataError(f"{what}, so nobody can check that the data are the same", where=str(folder), mend=_AGAIN)
    return RunRecord(
        arm=arm,
        seed=config["seed"],
        predictions=folder / PREDICTIONS,
        folder=folder,
        trained=folder,
        config=config,
        words=_words(folder),
        start=start,
        results=read_json(folder / RESULTS) or {},
        environment=read_json(folder / "environment.json") or {},
        history=_history(folder / "metrics.jsonl"),
        seconds=seconds,
    )


def read_evaluation(folder: Path, training: RunRecord, arm: str, config: Mapping[str, Any], words: tuple[str, ...]) -> RunRecord:
    """The record of an arm that shares ``training`` and was evaluated into ``folder``."""
    results = read_json(folder / RESULTS)
    if results is None or not results.get("finished") or not (folder / PREDICTIONS).is_file():
        raise DataError("the evaluation is missing or half-written", where=str(folder), mend="start the study again")
    if results.get("data_digest") != training.start["data"]["val"]:
        what = "the evaluation was made on other data than the training's validation set"
        raise DataError(what, where=str(folder), mend="remove the folder and start the study again")
    parameters = {key: training.results.get(key) for key in ("parameters", "seed", "device")}
    return RunRecord(
        arm, training.seed, folder / PREDICTIONS, folder, training.folder, config, words, training.start, results | parameters,
        training.environment, (), training.seconds,
    )  # fmt: skip


def _finished(folder: Path) -> dict[str, Any]:
    """The config of the run in ``folder``, which must be whole."""
    if not folder.is_dir():
        raise DataError("no such folder", where=str(folder), mend="name the folder of a run: runs/<name>/<time>")
    config = read_config(folder)
    if config is None or not isinstance(config.get("seed"), int):
        raise DataError("is no run folder: it has no usable config.yaml", where=str(folder), mend="name the folder of a run")
    if not (folder / RESULTS).is_file() or not is_finished(folder):
        raise DataError(
            "the run is not finished", where=str(folder), mend=f"finish it with tools/train.py resume={folder}, or leave it out"
        )
    summary = (read_json(folder / RESULTS) or {}).get("summary")
    if not isinstance(summary, dict) or not (folder / PREDICTIONS).is_file():
        missing = PREDICTIONS if isinstance(summary, dict) else f"summary in {RESULTS}"
        raise DataError(f"{missing} is missing", where=str(folder), mend="evaluate its checkpoint again with tools/evaluate.py")
    return config


def _words(folder: Path) -> tuple[str, ...]:
    try:
        words = yaml.safe_load((folder / "overrides.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return ()
    return tuple(map(str, words)) if isinstance(words, list) else ()


def _history(path: Path) -> tuple[dict[str, Any], ...]:
    """The evaluations in a ``metrics.jsonl``; torn lines are passed over."""
    found = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return ()
    for line in lines:
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict) and "val/AP" in content and isinstance(content.get("step"), int):
            found.append({key: value for key, value in content.items() if key == "step" or key.startswith(("val", "perf/"))})
    return tuple(found)
