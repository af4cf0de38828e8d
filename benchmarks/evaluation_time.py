"""COCO box evaluation of two files: our array evaluator against pycocotools, faster-coco-eval and hotcoco, as far as installed.

    python benchmarks/evaluation_time.py --out benchmarks/evaluation_time.md
    python benchmarks/evaluation_time.py --images 500 --boxes 3600 --detections 50000 --rounds 1 --agreement 300      # a quick look

Each back end reads and evaluates in a process of its own, because the peak memory of a process never falls; the processes alternate round
by round. Times are process CPU time of one thread, as other work may share the machine. First the twelve numbers are compared, then, on
thousands of random small data sets (``tests/evaluation/small_sets.py``), the whole precision and recall arrays.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "tests" / "evaluation")]

OURS, REFERENCE = "array", "pycocotools"
PACKAGES = {REFERENCE: "pycocotools", "faster-coco-eval": "faster_coco_eval", "hotcoco": "hotcoco"}
NOTE = """*Read*: JSON files to what the back end evaluates. *Evaluate*: from there to the twelve numbers; ours includes all checks of
the input, the search for repeated detections, the numbers per class and IoU threshold and the curves. Peak memory is that of the whole
process. The boxes and detections are drawn at random with roughly the proportions of COCO val2017 (rare and common classes, few classes
per image, log-normal sizes); 60 % of the detections lie near a box. Not shown: masks, several threads, other ratios of detections to
boxes."""

Reader = Callable[[str, str], Any]
"""Annotation file, results file -> a function that evaluates and gives the twelve numbers."""


def coco_sized(images: int, boxes: int, detections: int, classes: int, crowd: float = 0.012, seed: int = 0) -> tuple[dict, list]:
    """A ground truth and results in the form of COCO files."""
    draw = np.random.default_rng(seed)
    share = 1 / np.arange(1, classes + 1) ** 0.8
    share /= share.sum()
    image_ids, category_ids = np.arange(images) * 117 + 139, np.arange(classes) + 1
    image = draw.integers(0, images, boxes)
    label = draw.choice(classes, (images, 4), p=share)[image, draw.choice(4, boxes, p=[0.5, 0.25, 0.15, 0.1])]
    size = (np.exp(draw.normal(np.log(60), 1.0, (boxes, 1))) * np.exp(draw.normal(0, 0.3, (boxes, 2)))).clip(4, 480)
    xywh = np.concatenate([draw.random((boxes, 2)) * (np.array([640, 480]) - size).clip(1), size], axis=1).round(2)

    near, target = draw.random(detections) < 0.6, draw.integers(0, boxes, detections)
    right = near & (draw.random(detections) < 0.7)
    found_image = np.where(near, image[target], draw.integers(0, images, detections))
    found_label = np.where(right, label[target], draw.choice(classes, detections, p=share))
    error = np.exp(draw.normal(np.log(0.12), 0.8, (detections, 1)))
    moved = xywh[target] + draw.normal(0, 1, (detections, 4)) * error * np.tile(xywh[target, 2:], 2) * [1, 1, 0.7, 0.7]
    free = np.concatenate(
        [draw.random((detections, 2)) * [600, 440], np.exp(draw.normal(np.log(50), 1, (detections, 2))).clip(2, 400)], axis=1
    )
    found = np.where(near[:, None], moved, free).round(3)
    found[:, 2:] = found[:, 2:].clip(1)
    score = (1 / (1 + np.exp(-draw.normal(-2, 1.3, detections) - np.where(near, 1.5 - 4 * error[:, 0], -1)))).round(5)

    rows = zip(image_ids[image].tolist(), category_ids[label].tolist(), xywh.tolist(), (draw.random(boxes) < crowd).tolist(), strict=True)
    truth = {
        "images": [{"id": number, "width": 640, "height": 480} for number in image_ids.tolist()],
        "categories": [{"id": number, "name": f"class {number}"} for number in category_ids.tolist()],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": box, "area": 0.7 * box[2] * box[3], "iscrowd": int(is_crowd)}
            for n, (i, c, box, is_crowd) in enumerate(rows, start=1)
        ],
    }
    order = np.argsort(found_image, kind="stable")
    columns = (image_ids[found_image], category_ids[found_label], found, score)
    names = ("image_id", "category_id", "bbox", "score")
    return truth, [dict(zip(names, row, strict=True)) for row in zip(*(column[order].tolist() for column in columns), strict=True)]


def read_ours(truth: str, results: str) -> Callable[[], list[float]]:
    from fusion_det.data.coco_file import read_coco
    from fusion_det.evaluation.coco_metrics import evaluate_boxes
    from fusion_det.evaluation.predictions import read_detections

    ground_truth, detections = dict(read_coco(Path(truth))._asdict()), read_detections(results)
    return lambda: [-1.0 if value is None else value for value in evaluate_boxes(ground_truth, detections).summary.values()]


def read_like_pycocotools(coco: type, evaluation: type) -> Reader:
    def read(truth: str, results: str) -> Callable[[], list[float]]:
        ground_truth = coco(truth)
        found = ground_truth.loadRes(results)

        def evaluate() -> list[float]:
            run = evaluation(ground_truth, found, "bbox")
            for step in (run.evaluate, run.accumulate, run.summarize):
                step()
            return [float(value) for value in run.stats[:12]]

        return evaluate

    return read


def reader(name: str) -> Reader:
    """Imports the back end, which is not part of the time."""
    if name == OURS:
        import fusion_det.data.coco_file
        import fusion_det.evaluation.coco_metrics
        import fusion_det.evaluation.predictions  # noqa: F401

        return read_ours
    if name == REFERENCE:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval as Evaluation
    elif name == "faster-coco-eval":
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as Evaluation
    else:
        from hotcoco import COCO
        from hotcoco import COCOeval as Evaluation
    return read_like_pycocotools(COCO, Evaluation)


def measure(name: str, truth: str, results: str) -> dict[str, Any]:
    """One evaluation in this process."""
    with contextlib.redirect_stdout(io.StringIO()):
        read, start = reader(name), time.process_time()
        evaluate = read(truth, results)
        loaded = time.process_time()
        numbers = evaluate()
    end = time.process_time()
    return {"read": loaded - start, "evaluate": end - loaded, "whole": end - start, "peak": peak_memory(), "numbers": numbers}


def peak_memory() -> float:
    """MB; not ``getrusage``, whose number starts with that of the parent process."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def in_own_process(name: str, folder: Path) -> dict[str, Any]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--worker", name, str(folder / "truth.json"), str(folder / "results.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **threads})
    return json.loads(done.stdout.splitlines()[-1])


def agreement(count: int) -> str:
    """A line about random small data sets; the largest differences of precision and recall, which no rounding hides."""
    from small_sets import small_set

    from fusion_det.evaluation.array_metrics import match_checked
    from fusion_det.evaluation.coco_reference import reference_precision_recall
    from fusion_det.evaluation.precision_recall import summary_numbers
    from fusion_det.evaluation.predictions import DetectionArrays
    from fusion_det.evaluation.truth_arrays import TruthArrays

    largest, apart, boxes, found = 0.0, 0, 0, 0
    for seed in range(count):
        ground_truth, results, limit = small_set(seed)
        truth, detections = TruthArrays.of(ground_truth, []), DetectionArrays.from_results(results)
        expected = reference_precision_recall(truth.as_coco(), detections, limit)
        ours = match_checked(truth, detections, max_detections=limit).precision_recall()
        difference = max(float(np.abs(a - b).max(initial=0)) for a, b in zip(ours, expected, strict=True))
        largest, apart = max(largest, difference), apart + (difference > 0 or summary_numbers(*ours) != summary_numbers(*expected))
        boxes, found = boxes + len(truth.boxes), found + len(detections)
    return (
        f"{count:,} random small data sets ({boxes:,} boxes, {found:,} detections), all of precision, recall and the twelve numbers "
        f"against pycocotools: **{apart} sets differ, largest difference {largest:g}**."
    )


def table(measured: dict[str, list[dict[str, Any]]]) -> list[str]:
    columns = ("back end", "read, CPU-s", "evaluate, CPU-s", "fastest evaluate", "evaluate over ours", "read + evaluate over ours")
    columns = (*columns, "peak memory, MB", "of pycocotools'", "largest difference of the 12 numbers from pycocotools'")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    keys = ("read", "evaluate", "whole", "peak")
    median = {name: {key: statistics.median(run[key] for run in runs) for key in keys} for name, runs in measured.items()}
    for name, runs in measured.items():
        own, ours = median[name], median[OURS]
        apart = max(abs(a - b) for a, b in zip(runs[0]["numbers"], measured[REFERENCE][0]["numbers"], strict=True))
        lines.append(
            f"| {name} | {own['read']:.2f} | {own['evaluate']:.2f} | {min(run['evaluate'] for run in runs):.2f} "
            f"| {own['evaluate'] / ours['evaluate']:.1f}x | {own['whole'] / ours['whole']:.1f}x "
            f"| {own['peak']:.0f} | {own['peak'] / median[REFERENCE]['peak']:.2f} | {apart:g} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (
        ("images", 5000),
        ("boxes", 36_000),
        ("detections", 500_000),
        ("classes", 80),
        ("rounds", 3),
        ("agreement", 10_000),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(measure(*given.worker)))
        return
    names = [OURS, *(name for name, module in PACKAGES.items() if importlib.util.find_spec(module))]
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        truth, results = coco_sized(given.images, given.boxes, given.detections, given.classes)
        (folder / "truth.json").write_text(json.dumps(truth))
        (folder / "results.json").write_text(json.dumps(results))
        for turn in range(given.rounds):
            for name in names:
                measured[name].append(in_own_process(name, folder))
                print(turn, name, {key: round(value, 3) for key, value in measured[name][-1].items() if key != "numbers"}, flush=True)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", *names[1:]))
    text = "\n".join([
        "# COCO box evaluation: time, memory and agreement", "",
        f"{date.today()}, {platform.machine()} CPU, one thread, process CPU time, Python {platform.python_version()}, {versions}; "
        f"median of {given.rounds} alternated rounds", "",
        f"{given.images:,} images, {given.boxes:,} boxes (1.2 % crowd), {given.classes} classes, {given.detections:,} detections", "",
        *table(measured), "", NOTE, "", "## Agreement", "", agreement(given.agreement), "",
    ])  # fmt: skip
    print(text)
    if given.out:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
