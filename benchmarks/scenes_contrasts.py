"""Which mechanism has a neck? Train arms on generated scenes, five seeds each, and judge one contrast after the other with intervals.

    python benchmarks/scenes_contrasts.py --runs runs/contrasts --jobs 2 --out benchmarks/scenes_contrasts.md
    python benchmarks/scenes_contrasts.py --runs runs/contrasts --finished       # no training: the tables of what is there

Three studies. `levels`: scenes without crosses, three epochs; what a neck loses that leaves fine or deep levels out. `context`: crosses
told by a disk 24 to 130 px away. Nobody learns that from nothing in minutes, so every seed has a first lesson: a detector without fusion
learns to read near cues. All arms of that seed start from its weights, as far as they fit by name and shape (what the fusion adds is new),
and see all distances for three epochs. `operators`: the same for one epoch. Finished runs are kept: stop and start the script as you like.

Each question is asked of a part of the validation set: some classes, crosses within a band of cue distances, boxes within a band of sizes.
Boxes outside the band become crowd regions of all classes in question, which COCO's rules ignore. Differences, intervals (seeds and
images) and verdicts are `fusion_det.compare`'s.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from training_runs import results_of, train_into

from fusion_det import load
from fusion_det.analysis.level_ablation import ablated_detections
from fusion_det.compare.comparison import compare_study
from fusion_det.compare.results import Comparison
from fusion_det.compare.study import Study
from fusion_det.data.buckets import make_buckets
from fusion_det.data.coco_index import read_index
from fusion_det.data.dataset import DetectionDataset
from fusion_det.data.loader import eval_loader
from fusion_det.evaluation.array_metrics import match
from fusion_det.evaluation.predictions import DetectionArrays

GATHER = (
    "neck=fpn_bn fusion=concat neck.topology._target_=fusion_det.necks.topologies.gather.gather ~neck.topology.smooth_deepest "
    "+neck.topology.stride=null +neck.topology.spread=true +neck.topology.coarser=0 +neck.topology.embed=none"
)
IRNN = "neck.context={_target_:fusion_det.necks.context.irnn.IRNN,rounds:2,hidden:null,recurrence:identity}"
OPERATORS = {f"fpn {name}": f"neck=fpn_bn fusion={name}" for name in ("concat", "aff", "cross_attention")}
ARMS = {
    "levels": {
        "single C5": "neck=single block=conv_bn neck.topology.spread=true",
        "single C3": "neck=single block=conv_bn neck.topology.spread=true neck.topology.stride=8",
        "none": "neck=none block=conv_bn",
        "fpn": "neck=fpn_bn",
    },
    "context": {
        "none": "neck=none block=conv_bn",
        "fpn": "neck=fpn_bn",
        "pafpn": "neck=pafpn block=conv_bn",
        "bifpn": "neck=fpn_bn fusion=weighted_fast ~neck.topology.smooth_deepest +neck.topology.repeats=1 "
        "neck.topology._target_=fusion_det.necks.topologies.bifpn.bifpn",
        "gather": f"{GATHER} +neck.topology.context=false",
        "gather + IRNN": f"{GATHER} +neck.topology.context=true {IRNN}",
        **OPERATORS,
    },
    "operators": {"fpn": "neck=fpn_bn", **OPERATORS},
}
FIRST_LESSON = "neck=none block=conv_bn data=scenes_context data.cue_distance=[24,40] trainer.epochs=5"
"""The training that gives all arms of a seed their first weights in the studies of context."""
TRAINING = {
    "levels": "data=scenes data.context=0 trainer.epochs=3",
    "context": "data=scenes_context data.cue_distance=[24,130] trainer.epochs=3",
    "operators": "data=scenes_context data.cue_distance=[24,130] trainer.epochs=1",
}
"""By study, what every arm is trained on."""
COMMON = "logger.tensorboard=false trainer.eval_every=1"
WIDE = (0.0, float("inf"))
BANDS = ((24, 44), (44, 56), (56, 68), (68, 90), (90, 110), (110, 131))


@dataclass(frozen=True)
class Part:
    """What of the validation set a question is about."""

    name: str
    factors: tuple[str, ...]
    distance: tuple[float, float] = WIDE
    """Of a cross from its cue, px, the upper end excluded."""
    side: tuple[float, float] = WIDE
    """Square root of the box's area, px, the upper end excluded."""

    def holds(self, annotation: dict[str, Any]) -> bool:
        side = (annotation["bbox"][2] * annotation["bbox"][3]) ** 0.5
        return self.side[0] <= side < self.side[1] and self.distance[0] <= annotation.get("cue_distance", 0.0) < self.distance[1]

    def of(self, truth: dict[str, Any]) -> dict[str, Any]:
        """The COCO dict with the classes of this part; boxes outside its bands are crowd regions of each of them."""
        categories = [category for category in truth["categories"] if category["supercategory"] in self.factors]
        kept = {category["id"] for category in categories}
        boxes: list[dict[str, Any]] = []
        for row in truth["annotations"]:
            if row["category_id"] in kept and self.holds(row):
                boxes.append(row)
            elif row["category_id"] in kept:
                boxes += [{**row, "category_id": category, "iscrowd": 1} for category in kept]
        numbered = [{**row, "id": number} for number, row in enumerate(boxes, start=1)]
        return {**truth, "categories": categories, "annotations": numbered}


@dataclass(frozen=True)
class Question:
    """One contrast: every arm against the baseline on one part."""

    study: str
    baseline: str
    arms: tuple[str, ...]
    part: Part
    metric: str = "AP"


FLAT = ("plain", "detail", "scale", "precision")
SMALL, LARGE = (0.0, 16.0), (48.0, float("inf"))
TOPOLOGIES = ("fpn", "pafpn", "bifpn", "gather", "gather + IRNN")
QUESTIONS = {
    "1. Scale: one level against several": [
        Question("levels", "single C5", ("none", "fpn"), Part("boxes under 16 px", FLAT, side=SMALL)),
        Question("levels", "single C3", ("none", "fpn"), Part("boxes of 48 px and more", FLAT, side=LARGE)),
    ],
    "2. Far context: topologies against none": [
        Question("context", "none", TOPOLOGIES, Part(f"crosses, cue {low}-{high - 1} px away", ("context",), distance=(low, high)), "AP50")
        for low, high in BANDS
    ],
    **{
        f"3. Operators in one FPN against addition, {words}": [
            Question(study, "fpn", tuple(OPERATORS), Part("crosses, cue 24-67 px away", ("context",), distance=(24, 68)), "AP50"),
            Question(study, "fpn", tuple(OPERATORS), Part("crosses, cue 68 px away or more", ("context",), distance=(68, 131)), "AP50"),
            Question(study, "fpn", tuple(OPERATORS), Part("plain objects", ("plain",))),
        ]
        for study, words in (("operators", "one epoch"), ("context", "three epochs"))
    },
    "4. Detail and precision: the deepest level against any neck that reaches stride 8": [
        Question("levels", "single C5", ("single C3", "none", "fpn"), Part("detail", ("detail",))),
        Question("levels", "single C5", ("single C3", "none", "fpn"), Part("precision", ("precision",))),
    ],
}
ABLATED = {
    "levels": {
        "fpn": (Part("boxes under 16 px", FLAT, side=SMALL), Part("detail", ("detail",)), Part("boxes of 48 px and more", FLAT, side=LARGE))
    },
    "context": {
        neck: (
            Part("crosses, cue 24-67 px away", ("context",), distance=(24, 68)),
            Part("crosses, cue 68 px away or more", ("context",), distance=(68, 131)),
            Part("plain objects", ("plain",)),
        )
        for neck in ("fpn", "gather")
    },
}


def first_lesson(runs: Path, seed: int) -> Path:
    return runs / "first_lesson" / str(seed)


def folder_of(runs: Path, study: str, arm: str, seed: int | str) -> Path:
    return runs / study / f"{arm.replace(' + ', '_').replace(' ', '_')}-{seed}"


def prepare(runs: Path, seed: int, *, threads: int, words: Sequence[str]) -> str:
    """The first lesson of a seed."""
    return train(first_lesson(runs, seed), [*FIRST_LESSON.split(), f"seed={seed}", *words], threads)


def teach(runs: Path, study: str, arm: str, seed: int, *, threads: int, words: Sequence[str]) -> str:
    """One run of an arm."""
    start = [] if study == "levels" else [f"init_from={first_lesson(runs, seed) / 'last.pt'}"]
    overrides = [*ARMS[study][arm].split(), *TRAINING[study].split(), f"seed={seed}", *start, *words]
    return train(folder_of(runs, study, arm, seed), overrides, threads)


def train(folder: Path, overrides: Sequence[str], threads: int) -> str:
    """Train into ``folder`` unless it is finished, going on with what is there; one line on how it ended."""
    code = train_into(folder, [*overrides, *COMMON.split()], threads)
    return f"{folder.parent.name}/{folder.name}: " + (f"exit code {code}" if code or not results_of(folder) else "done")


def judged(runs: Path, study: str, arm: str) -> dict[str, Path]:
    """By seed, the finished folders of an arm."""
    start = folder_of(runs, study, arm, "").name
    found = {path.name.removeprefix(start): path for path in (runs / study).glob(f"{start}*")}
    return {seed: path for seed, path in sorted(found.items()) if seed.isdigit() and results_of(path)}


def answer(runs: Path, question: Question) -> Comparison:
    """The comparison that a question asks for; the seeds that all its arms have."""
    arms = (question.baseline, *question.arms)
    folders = {arm: judged(runs, question.study, arm) for arm in arms}
    seeds = sorted(set.intersection(*(set(found) for found in folders.values())))
    truth = question.part.of(validation_set(next(iter(folders[question.baseline].values()))))
    known = {category["id"] for category in truth["categories"]}
    tables = {arm: {seed: match(truth, detections(folders[arm][seed], known)) for seed in seeds} for arm in arms}
    return compare_study(Study(tables, question.baseline), metrics=("AP", "AP50"), primary=question.metric, classes=False)


def validation_set(folder: Path) -> dict[str, Any]:
    """The annotations that a run was evaluated on."""
    start = json.loads((folder / "start.json").read_text())
    return json.loads(Path(start["annotations"]).read_text())


def detections(folder: Path, categories: Iterable[int]) -> DetectionArrays:
    rows = json.loads((folder / "predictions.json").read_text())
    kept = set(categories)
    return DetectionArrays.from_results([row for row in rows if row["category_id"] in kept])


def ablation(runs: Path, studies: Sequence[str]) -> list[str]:
    """The table of the fifth contrast: trained detectors whose neck sees the mean of a backbone level in its place."""
    lines = ["## 5. Trained detectors, one backbone level replaced by its mean", ""]
    lines += ["| neck | of what | metric | all levels | replaced | difference [interval] | verdict | seeds |", "|---" * 8 + "|"]
    for study, necks in ABLATED.items():
        if study not in studies:
            continue
        for neck, parts in necks.items():
            folders = judged(runs, study, neck)
            truth = validation_set(next(iter(folders.values())))
            found = {seed: replaced(folder) for seed, folder in folders.items()}
            for part in parts:
                reduced = part.of(truth)
                known = [category["id"] for category in reduced["categories"]]
                names = list(next(iter(found.values())))
                tables = {name: {seed: match(reduced, of_classes(found[seed][name], known)) for seed in found} for name in names}
                asked = Question(study, names[0], tuple(names[1:]), part, "AP50" if study == "context" else "AP")
                compared = compare_study(Study(tables, names[0]), metrics=("AP", "AP50"), primary=asked.metric, classes=False)
                lines += [f"| {neck} {row}" for row in rows_of(asked, compared)]
    return [*lines, ""]


def replaced(folder: Path) -> dict[str, DetectionArrays]:
    """Detections of a trained run with each level of its backbone replaced in turn; as they are first."""
    detector = load(folder / "last.pt", device="cpu")
    start = json.loads((folder / "start.json").read_text())
    index = read_index(Path(start["annotations"]), Path(start["pictures"]))
    batches = eval_loader(DetectionDataset(index, make_buckets(detector.image_size)), batch_size=16, workers=0)
    found = ablated_detections(detector, batches, part="backbone", replacements=["mean"])
    return {
        variant.level if variant else "as it is": arrays for variant, arrays in found.items() if not variant or variant.action == "drop"
    }


def of_classes(arrays: DetectionArrays, categories: Sequence[int]) -> DetectionArrays:
    kept = np.isin(arrays.category_ids, categories)
    return DetectionArrays(arrays.image_ids[kept], arrays.category_ids[kept], arrays.boxes[kept], arrays.scores[kept])


def rows_of(question: Question, found: Comparison) -> list[str]:
    """A row per arm: its number, the baseline's, the difference with its interval, the verdict."""
    base = found.arms[question.baseline][question.metric]
    assert base is not None
    lines = []
    for arm in question.arms:
        own, difference, verdict = found.arms[arm][question.metric], found.differences[arm][question.metric], found.verdicts[arm]
        assert own is not None
        assert difference is not None
        low, high = 100 * verdict.interval.low, 100 * verdict.interval.high
        lines.append(
            f"| {question.part.name} | {question.metric} | {question.baseline} {100 * base.estimate:.1f} | {arm} {100 * own.estimate:.1f} "
            f"| {100 * difference.estimate:+.1f} [{low:+.1f}, {high:+.1f}] | {verdict.word} | {len(difference.seeds)} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--studies", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/contrasts"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--finished", action="store_true", help="train nothing: the tables of the runs that are finished")
    parser.add_argument("--ablation", action="store_true", help="also replace backbone levels of trained detectors")
    parser.add_argument("words", nargs="*", help="further overrides of every run, after --")
    arguments = parser.parse_args()
    runs, threads = arguments.runs.resolve(), max(1, (os.cpu_count() or 1) // arguments.jobs)
    wanted = [(study, arm, seed) for seed in arguments.seeds for study in arguments.studies for arm in ARMS[study]]
    if not arguments.finished:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            options = {"threads": threads, "words": arguments.words}
            lessons = arguments.seeds if set(arguments.studies) - {"levels"} else []
            for line in pool.map(lambda seed: prepare(runs, seed, **options), lessons):
                print(line, flush=True)
            for line in pool.map(lambda run: teach(runs, *run, **options), wanted):
                print(line, flush=True)
    lines = [line for title, questions in QUESTIONS.items() for line in section(runs, title, questions, arguments.studies)]
    if arguments.ablation:
        lines += ablation(runs, arguments.studies)
    text = "\n".join(lines)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


def section(runs: Path, title: str, questions: Sequence[Question], studies: Sequence[str]) -> list[str]:
    """The table of one contrast; nothing if its study was left out."""
    asked = [question for question in questions if question.study in studies]
    head = [f"## {title}", "", "| of what | metric | baseline | arm | difference [interval] | verdict | seeds |", "|---" * 7 + "|"]
    return [*head, *(row for question in asked for row in rows_of(question, answer(runs, question))), ""] if asked else []


if __name__ == "__main__":
    main()
