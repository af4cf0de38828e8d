"""Time of the image bootstrap on a set of COCO val's size, and hotcoco's on the same detections.

    pip install hotcoco==1.3.0 && python benchmarks/bootstrap_time.py --out benchmarks/bootstrap_time.md

5,000 images, 36,000 boxes (1.2 % crowds), 80 classes, 500,000 detections per run. About 5 CPU minutes; without hotcoco about 2.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from fusion_det.compare.comparison import compare_study
from fusion_det.compare.replicates import METRICS, replicate_metrics
from fusion_det.compare.resampling import ImageResamples
from fusion_det.compare.study import Study
from fusion_det.evaluation.array_metrics import match
from fusion_det.evaluation.match_table import MatchTable
from fusion_det.evaluation.predictions import DetectionArrays

IMAGES, BOXES, CLASSES, DETECTIONS = 5000, 36_000, 80, 500_000


def draw_truth(rng: np.random.Generator) -> tuple[dict[str, Any], np.ndarray]:
    """A COCO dict whose classes are as uneven as COCO's, and how hard each box is."""
    share = 1 / np.arange(1, CLASSES + 1) ** 0.9
    image, kind = rng.integers(IMAGES, size=BOXES), rng.choice(CLASSES, BOXES, p=share / share.sum())
    size = np.exp(rng.normal(4, 1, (BOXES, 2))).clip(4, 400)
    corner = rng.uniform(0, 1, (BOXES, 2)) * (640 - size)
    crowd = rng.random(BOXES) < 0.012
    boxes = np.concatenate([corner, size], axis=1).tolist()
    rows = zip(image.tolist(), kind.tolist(), boxes, crowd.tolist(), strict=True)
    annotations = [
        {"id": i, "image_id": a + 1, "category_id": k + 1, "bbox": box, "area": 0.7 * box[2] * box[3], "iscrowd": int(crowded)}
        for i, (a, k, box, crowded) in enumerate(rows, start=1)
    ]
    truth = {
        "images": [{"id": i + 1, "width": 640, "height": 640} for i in range(IMAGES)],
        "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(CLASSES)],
        "annotations": annotations,
    }
    return truth, rng.normal(0, 1, BOXES)


def draw_detections(truth: dict[str, Any], ease: np.ndarray, rng: np.random.Generator) -> DetectionArrays:
    """85 % of the boxes, near misses around boxes, and background; AP about 37."""
    boxes = np.array([a["bbox"] for a in truth["annotations"]])
    ids = np.array([(a["image_id"], a["category_id"]) for a in truth["annotations"]])
    hit = np.flatnonzero(rng.random(BOXES) < 0.85)
    near = rng.integers(BOXES, size=(DETECTIONS - len(hit)) // 3)
    far = DETECTIONS - len(hit) - len(near)

    def moved(rows: np.ndarray, shift: float, stretch: float) -> np.ndarray:
        size = boxes[rows, 2:] * np.exp(rng.normal(0, stretch, (len(rows), 2)))
        middle = boxes[rows, :2] + boxes[rows, 2:] * (0.5 + rng.normal(0, shift, (len(rows), 2)))
        return np.concatenate([middle - size / 2, size], axis=1)

    size = np.exp(rng.normal(4, 1, (far, 2))).clip(4, 400)
    background = np.concatenate([rng.uniform(0, 1, (far, 2)) * (640 - size), size], axis=1)
    kinds = rng.permutation(ids[:, 1])[rng.integers(BOXES, size=far)]
    image = np.concatenate([ids[hit, 0], ids[near, 0], rng.integers(1, IMAGES + 1, far)])
    logit = np.concatenate([rng.normal(0.3 + 0.8 * ease[hit], 1.0), rng.normal(-3, 1, len(near) + far)])
    found = np.concatenate([moved(hit, 0.08, 0.08), moved(near, 0.3, 0.35), background])
    return DetectionArrays(image, np.concatenate([ids[hit, 1], ids[near, 1], kinds]), found, 1 / (1 + np.exp(-logit)))


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """CPU seconds of all threads, and wall-clock seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


def hotcoco_compare(truth: dict[str, Any], runs: list[DetectionArrays]) -> Callable[[int], Any] | None:
    """hotcoco's comparison of two runs, evaluated beforehand; ``None`` if it is not installed."""
    try:
        import hotcoco
    except ImportError:
        return None
    ground = hotcoco.COCO(truth)
    evaluations = []
    for run in runs:
        rows = np.column_stack([run.image_ids, run.boxes, run.scores, run.category_ids]).astype(float)
        evaluation = hotcoco.COCOeval(ground, ground.load_res(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluations.append(evaluation)
    return lambda count: hotcoco.compare(*evaluations, n_bootstrap=count)


def race(tables: list[MatchTable], theirs: Callable[[int], Any], replicates: int, rounds: int, threads: int) -> list[str]:
    """Two runs, all twelve metrics, alternated round by round."""
    weights = ImageResamples(IMAGES, replicates).weights
    arms = {
        "fusion_det": lambda: [replicate_metrics(table, weights, metrics=METRICS, threads=threads) for table in tables],
        "hotcoco.compare": lambda: theirs(replicates),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, call in arms.items():
            times[name].append(timed(call))
            print(name, times[name][-1], flush=True)
    lines = ["| two runs, 12 metrics | CPU s, median (fastest) | CPU s per replicate | wall s, median |", "|---|---|---|---|"]
    median = {name: statistics.median(cpu for cpu, _ in found) for name, found in times.items()}
    for name, found in times.items():
        fastest, wall = min(cpu for cpu, _ in found), statistics.median(wall for _, wall in found)
        lines.append(f"| {name} | {median[name]:.2f} ({fastest:.2f}) | {median[name] / replicates:.4f} | {wall:.1f} |")
    ratio = median["hotcoco.compare"] / median["fusion_det"]
    return [*lines, "", f"{replicates} replicates, {rounds} rounds: **{ratio:.0f} times less CPU time** than hotcoco.compare.", ""]


def study_times(tables: list[MatchTable], resamples: int, threads: int) -> list[str]:
    """A study of two arms with three seeds each."""
    half = len(tables) // 2
    arms = {"a": dict(zip("012", tables[:half], strict=False)), "b": dict(zip("012", tables[half:], strict=False))}
    lines = [f"| study of {len(tables)} runs, {resamples} replicates | CPU s | wall s |", "|---|---|---|"]
    for words, metrics, classes in (("AP, per class", ("AP",), True), ("AP, AP50, AP75, APs, APm, APl, per class", METRICS[:6], True)):
        study = Study(arms, "a")
        cpu, wall = timed(
            lambda study=study, metrics=metrics, classes=classes: compare_study(
                study, metrics=metrics, classes=classes, resamples=resamples, threads=threads
            )
        )
        lines.append(f"| {words} | {cpu:.1f} | {wall:.1f} |")
        print(lines[-1], flush=True)
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=256, help="of the race against hotcoco")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    truth, ease = draw_truth(np.random.default_rng(0))
    runs = [draw_detections(truth, ease, np.random.default_rng([1, number])) for number in range(6)]
    matching = [timed(lambda run=run: match(truth, run))[0] for run in runs[:3]]
    tables = [match(truth, run) for run in runs]
    lines = [HEADER, f"Matching one run (once, not part of the times below): {statistics.median(matching):.2f} CPU s.", ""]
    theirs = hotcoco_compare(truth, runs[:2])
    if theirs is not None:
        lines += race(tables[:2], theirs, options.replicates, options.rounds, options.threads)
    lines += study_times(tables, 2000, options.threads)
    load, memory = os.getloadavg()[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines += [
        f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, load {load:.1f}; Python "
        f"{platform.python_version()}, NumPy {np.__version__}; {options.threads} threads; peak memory of the process {memory:.1f} GB.",
        "",
        FOOTER,
    ]
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines), encoding="utf-8")


HEADER = f"""# Time of the image bootstrap

`pip install hotcoco==1.3.0 && python benchmarks/bootstrap_time.py --out benchmarks/bootstrap_time.md`

{IMAGES:,} images, {BOXES:,} boxes (1.2 % crowds), {CLASSES} classes, {DETECTIONS:,} detections in each run. Every replicate recomputes AP
in full from cached matches. Wanted: 2,000 replicates of a study of 6 runs in at most 60 s on 2 cores, and at most a tenth of
hotcoco.compare's time.
"""

FOOTER = """A hundred replicates are too few for two threads to share: ours run on one core there, hotcoco's on two.

hotcoco 1.3.0 counts an image that was drawn several times only once: its replicates hold about 63 % of the images, each once, and its
standard errors are about 0.77 of a bootstrap's (see `tests/compare/test_hotcoco.py`, which reproduces its intervals that way). The work of
a replicate is the same or less; the time is compared, not the intervals.
"""

if __name__ == "__main__":
    main()
