"""Error types as delta-AP: ours against tidecv, if it is installed, and the whole error report.

    pip install tidecv==1.0.1 && python benchmarks/error_types.py --out benchmarks/error_types.md
    python benchmarks/error_types.py --images 200 --rounds 1      # a quick look

Data as in ``benchmarks/evaluation_time.py``. Times are process CPU time, as other work may share the machine; set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]

from evaluation_time import coco_sized, peak_memory  # noqa: E402

from fusion_det.evaluation.error_report import error_report  # noqa: E402
from fusion_det.evaluation.error_types import ERROR_TYPES, SPECIAL_TYPES, ErrorTable, find_errors  # noqa: E402
from fusion_det.evaluation.overlaps import find_overlaps  # noqa: E402
from fusion_det.evaluation.predictions import DetectionArrays  # noqa: E402
from fusion_det.evaluation.truth_arrays import TruthArrays  # noqa: E402

TIDE_NAMES = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss", "FalsePos", "FalseNeg")
NOTE = """*Find* matches all pairs of detections and boxes and names each error; *delta-AP* is the first evaluation of the nine APs
after that, and *resample* each further one with other weights of the images. *Report* is all of `errors=true` with five
pyramid levels, from arrays to text and JSON. tidecv's time is from its own data objects to the eight deltas. Equal scores
are kept out of the data here, as tidecv orders them differently before and after a repair; *largest difference* is over AP x
100 and the eight deltas."""


def cpu_seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def measure(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[dict[str, float], ErrorTable]:
    detections = DetectionArrays.from_results(results)
    levels = [f"P{3 + i % 5}" for i in range(len(detections))]
    find, table = cpu_seconds(lambda: find_errors(find_overlaps(ground_truth, detections)))
    first, _ = cpu_seconds(table.delta_ap)
    images = len(table.overlaps.image_ids)
    weights = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), size=10)
    resample, _ = cpu_seconds(lambda: table.replicates(weights))
    report, _ = cpu_seconds(lambda: [(r := error_report(ground_truth, detections, levels=levels)).table(), r.as_dict()])
    return {"find": find, "first": first, "resample": resample / len(weights), "report": report}, table


def by_tidecv(ground_truth: dict[str, Any], results: list[dict[str, Any]]) -> tuple[float, list[float]]:
    from tidecv import TIDE, Data

    truth, found = Data("truth", max_dets=100), Data("found", max_dets=100)
    for image in ground_truth["images"]:
        truth.add_image(image["id"], str(image["id"]))
    for a in ground_truth["annotations"]:
        (truth.add_ignore_region if a["iscrowd"] else truth.add_ground_truth)(a["image_id"], a["category_id"], a["bbox"])
    for record in results:
        found.add_detection(record["image_id"], record["category_id"], record["score"], record["bbox"])

    def run() -> list[float]:
        tide = TIDE()
        ap = tide.evaluate(truth, found, name="run").ap
        errors = tide.get_all_errors()
        return [ap, *({**errors["main"]["run"], **errors["special"]["run"]}[name] for name in TIDE_NAMES)]

    return cpu_seconds(run)


def difference(table: ErrorTable, expected: list[float]) -> float:
    deltas = table.delta_ap(as_tidecv=True)
    return max(abs(100 * deltas[name] - value) for name, value in zip(("AP", *ERROR_TYPES, *SPECIAL_TYPES), expected, strict=True))


def row(images: int, rounds: int, *, with_tidecv: bool) -> str:
    ground_truth, results = coco_sized(images, images * 36 // 5, images * 100, 80)
    order = np.argsort([-record["score"] for record in results], kind="stable")
    for place, index in enumerate(order.tolist()):
        results[index]["score"] = 1 - (place + 1) / (len(results) + 1)
    TruthArrays.of(ground_truth, [])  # the first call imports
    ours, theirs, apart = [], [], 0.0
    for _ in range(rounds):
        times, table = measure(ground_truth, results)
        ours.append(times)
        if with_tidecv:
            seconds, expected = by_tidecv(ground_truth, results)
            theirs.append(seconds)
            apart = max(apart, difference(table, expected))
    median = {key: statistics.median(times[key] for times in ours) for key in ours[0]}
    whole = median["find"] + median["first"]
    cells = [f"{images:,} / {len(ground_truth['annotations']):,} / {len(results):,}", f"{median['find']:.2f}", f"{median['first']:.2f}"]
    cells += [f"{1000 * median['resample']:.1f}", f"{median['report']:.2f}"]
    tide = statistics.median(theirs) if theirs else None
    cells += ["-"] * 3 if tide is None else [f"{tide:.1f}", f"{tide / whole:.0f}x", f"{apart:.1g}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 5000], help="images; boxes and detections in COCO's proportions")
    parser.add_argument("--tidecv-images", type=int, default=500, help="larger sets without tidecv, which takes minutes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    installed = importlib.util.find_spec("tidecv") is not None
    columns = ("images / boxes / detections", "find, CPU-s", "delta-AP, CPU-s", "resample, CPU-ms", "report, CPU-s", "tidecv, CPU-s")
    columns = (*columns, "tidecv / (find + delta-AP)", "largest difference")
    rows = [row(n, arguments.rounds, with_tidecv=installed and n <= arguments.tidecv_images) for n in arguments.images]
    text = "\n".join(
        [
            "# Error types: time, and agreement with tidecv",
            "",
            f"Written by `benchmarks/error_types.py` on {date.today()}: {platform.machine()}, one thread; "
            f"Python {platform.python_version()}, NumPy {np.__version__}, tidecv {'1.0.1' if installed else 'not installed'}; "
            f"median of {arguments.rounds} rounds, 80 classes, peak memory of the process {peak_memory():.0f} MB.",
            "",
            f"| {' | '.join(columns)} |",
            "|---" * len(columns) + "|",
            *rows,
            "",
            NOTE,
            "",
        ]
    )
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
