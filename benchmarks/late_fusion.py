"""Time of the late fusions on a whole batch against the same work image by image, alternated in one run; process CPU time, one thread.

    python benchmarks/late_fusion.py --out benchmarks/late_fusion.md
    pip install --target PEER ensemble-boxes numba pandas; PYTHONPATH=PEER python benchmarks/late_fusion.py --out benchmarks/late_fusion.md

The reference of nms is ``torchvision.ops.batched_nms`` once per image; of soft_nms, nmw and wbf the package ensemble-boxes once per image,
where it is installed. Before anything is timed, both must give the same scores (to 1e-5). Boxes scatter around 60 objects per image.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
import torchvision
import yaml
from torchvision.ops import batched_nms

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fusion_det.config.instantiate import build
from fusion_det.config.tools import default_config_dir
from fusion_det.structures import Detections, RawDetections

try:
    import ensemble_boxes
except ImportError:
    ensemble_boxes = None

SIDE = 640
METHODS = ("nms", "diou_nms", "matrix_nms", "soft_nms", "voting", "nmw", "wbf")
Scores = list[np.ndarray]


def make_sources(batch: int, count: int, classes: int, sources: int) -> list[RawDetections]:
    """``count`` candidates per image, shared out to the sources; seven of ten have the class of their object."""
    generator = torch.Generator().manual_seed(0)
    corner, size = torch.rand(batch, 60, 2, generator=generator) * 500, 20 + torch.rand(batch, 60, 2, generator=generator) * 150
    labels, made = torch.randint(0, classes, (batch, 60), generator=generator), []
    for _ in range(sources):
        shape = (batch, count // sources)
        which = torch.randint(0, 60, shape, generator=generator)
        pairs = which[..., None].expand(-1, -1, 2)
        start = corner.gather(1, pairs) + torch.randn(*shape, 2, generator=generator) * 8
        extent = size.gather(1, pairs) * torch.exp(torch.randn(*shape, 2, generator=generator) * 0.15)
        right = torch.rand(shape, generator=generator) < 0.7
        label = torch.where(right, labels.gather(1, which), torch.randint(0, classes, shape, generator=generator))
        boxes = torch.cat([start, start + extent], dim=2).clamp(0, SIDE)
        levels = torch.randint(0, 5, shape, generator=generator)
        made.append(RawDetections(boxes, torch.rand(shape, generator=generator), label, levels, torch.ones(shape, dtype=torch.bool)))
    return made


def late_fusion(name: str, **changes: object) -> Callable[[list[RawDetections]], Detections]:
    return build(yaml.safe_load((default_config_dir() / "late_fusion" / f"{name}.yaml").read_text()) | changes)


def loop(name: str, sources: list[RawDetections]) -> Callable[[], Scores] | None:
    """The reference for each image in turn: its scores, best first."""
    images = range(len(sources[0].scores))
    if name == "nms":
        (raw,) = sources
        return lambda: [raw.scores[i][batched_nms(raw.boxes[i], raw.scores[i], raw.labels[i], 0.6)].numpy() for i in images]
    if ensemble_boxes is None or name not in ("soft_nms", "nmw", "wbf"):
        return None
    columns = [
        [
            [getattr(source, key)[i].double().numpy() / scale for source in sources]
            for key, scale in (("boxes", SIDE), ("scores", 1), ("labels", 1))
        ]
        for i in images
    ]
    functions = {
        "soft_nms": lambda b, s, c: ensemble_boxes.soft_nms(b, s, c, method=2, sigma=0.5, thresh=0.001),
        "nmw": lambda b, s, c: ensemble_boxes.non_maximum_weighted(b, s, c, iou_thr=0.55),
        "wbf": lambda b, s, c: ensemble_boxes.weighted_boxes_fusion(b, s, c, iou_thr=0.55),
    }
    return lambda: [np.sort(functions[name](*column)[1])[::-1] for column in columns]


def check_same(name: str, sources: list[RawDetections], reference: Callable[[], Scores]) -> None:
    """The scores of all detections agree; of soft_nms only the number, as ensemble-boxes returns scores from before the decay."""
    found = late_fusion(name, max_detections=10**6)(sources)
    for i, theirs in enumerate(reference()):
        mine = found.scores[i][found.valid[i]].numpy()
        if len(mine) != len(theirs) or (name != "soft_nms" and np.abs(mine - theirs).max() > 1e-5):
            raise SystemExit(f"{name}: other results than the reference in image {i}")


def cpu_milliseconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return 1000 * (time.process_time() - start)


def measure(name: str, arguments: argparse.Namespace) -> tuple[int, dict[str, list[float]]]:
    """Number of sources, and the times of each arm."""
    count = 4 if name in ("nmw", "wbf") else 1
    sources = make_sources(arguments.batch, arguments.count, arguments.classes, count)
    arms: dict[str, Callable[[], object]] = {}
    for words in ({}, {"class_agnostic": True}, {"per_level": True}):
        fusion = late_fusion(name, **words)
        arms["".join(words) or "per class"] = lambda fusion=fusion: fusion(sources)  # type: ignore[misc]
    reference = loop(name, sources)
    if reference is not None:
        check_same(name, sources, reference)
        arms["reference"] = reference
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    for turn in range(arguments.rounds + 1):
        for arm, call in arms.items():
            spent = cpu_milliseconds(call)
            times[arm] += [spent] if turn else []
    return count, times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--count", type=int, default=1000, help="candidates per image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in METHODS:
        count, times = measure(name, arguments)
        cells = [f"{statistics.median(times[arm]):.0f} ({min(times[arm]):.0f})" if arm in times else "-" for arm in
                 ("per class", "class_agnostic", "per_level", "reference")]  # fmt: skip
        ratio = f"{statistics.median(times['reference']) / statistics.median(times['per class']):.1f}x" if "reference" in times else "-"
        rows.append(f"| {name} | {count} | {' | '.join(cells)} | {ratio} |")
        print(rows[-1], flush=True)
    peer = "ensemble-boxes installed" if ensemble_boxes is not None else "without ensemble-boxes"
    page = f"""# Late fusion: a whole batch against image by image

Written by `benchmarks/late_fusion.py` on {date.today()}: {platform.machine()}, one thread; Python {platform.python_version()},
torch {torch.__version__}, torchvision {torchvision.__version__}, {peer}. {arguments.batch} images x {arguments.count} candidates
around 60 objects, {arguments.classes} classes; values of the YAML files. Process CPU milliseconds per batch, median (fastest) of
{arguments.rounds} alternated rounds after one of warm-up.

| method | sources | per class | class_agnostic | per_level | reference, image by image, per class | reference / per class |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}

References: of nms `torchvision.ops.batched_nms`, which gives indices only, ours sorted and padded detections with level and
source; of soft_nms, nmw and wbf the package ensemble-boxes. Same scores to 1e-5 before timing; of soft_nms only the number of
detections is compared here, as the package returns the scores from before the decay. No GPU was measured.
"""
    if arguments.out:
        arguments.out.write_text(page)


if __name__ == "__main__":
    main()
