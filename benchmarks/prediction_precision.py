"""What bfloat16 does to the AP of trained detectors: the same checkpoints predict the same new pictures in both precisions.

    python benchmarks/prediction_precision.py runs/head_learning/{retinanet,fcos,ssd,faster_rcnn}-fpn-*/last.pt
    python benchmarks/prediction_precision.py --arm fast runs/head_learning/retinanet-fpn-0/last.pt

``--arm fast``: not bfloat16, but fp32 as ``tools/predict.py`` does it, with Winograd's algorithm where it applies.

The pictures are generated scenes of another seed than those of training, as many as `--pictures` says: over a few hundred, rounding alone
moves AP by 0.1. Boxes: how many of fp32's detections with a score of 0.3 or more the other arm has too, of the same class, with IoU >= 0.9
and a score within 0.05.
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torchvision.ops import box_convert, box_iou

import fusion_det
from fusion_det.config.instantiate import build
from fusion_det.data.coco_index import CocoIndex
from fusion_det.data.dataset import DetectionDataset
from fusion_det.data.loader import eval_loader
from fusion_det.evaluation.evaluator import collect_predictions, score_predictions

Results = list[dict[str, Any]]


def predict(checkpoint: Path, arm: str, index: CocoIndex) -> Results:
    """COCO results of the averaged weights; ``arm``: fp32, bf16 or fast (fp32 too)."""
    found = fusion_det.load(checkpoint, device="cpu", fast=arm == "fast")
    precision = "bf16" if arm == "bf16" else "fp32"
    batches = eval_loader(DetectionDataset(index, found.buckets), batch_size=16, workers=0)
    return collect_predictions(found.model, batches, category_ids=list(index.category_ids), device=found.device, precision=precision)


def shared(full: Results, other: Results, *, least_score: float = 0.3) -> tuple[int, int]:
    """How many of the confident detections of ``full`` are in ``other`` as well, and how many there are."""
    groups: dict[tuple[int, int], tuple[Results, Results]] = defaultdict(lambda: ([], []))
    for side, results in enumerate((full, other)):
        for result in results:
            groups[result["image_id"], result["category_id"]][side].append(result)
    same = total = 0
    for wanted, there in groups.values():
        wanted = [result for result in wanted if result["score"] >= least_score]
        total += len(wanted)
        if wanted and there:
            ious = box_iou(_boxes(wanted), _boxes(there))
            scores = torch.tensor([a["score"] for a in wanted])[:, None] - torch.tensor([b["score"] for b in there])
            same += int(((ious >= 0.9) & (scores.abs() <= 0.05)).any(dim=1).sum())
    return same, total


def _boxes(results: Results) -> torch.Tensor:
    return box_convert(torch.tensor([result["bbox"] for result in results]), "xywh", "xyxy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--arm", choices=["bf16", "fast"], default="bf16", help="what is compared with fp32")
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1, help="of the pictures")
    parser.add_argument("--root", default="data", help="folder in which they are written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{date.today()}, {platform.machine()} CPU, 1 thread, Python {platform.python_version()}, torch {torch.__version__}; "
        f"{arguments.pictures} scenes of seed {arguments.seed}, batch 16, averaged weights. AP x 100.\n\n"
        f"| run | AP fp32 | AP {arguments.arm} | difference | boxes |\n|---|---|---|---|---|"
    )
    differences = []
    for checkpoint in arguments.checkpoints:
        config = fusion_det.load(checkpoint, device="cpu").config["data"]
        config |= {"root": arguments.root, "train_images": 1, "val_images": arguments.pictures, "seed": arguments.seed}
        index = build(config).val
        found = [predict(checkpoint, arm, index) for arm in ("fp32", arguments.arm)]
        full, other = (100 * score_predictions(index, results, max_detections=100).summary["AP"] for results in found)
        same, total = shared(*found)
        differences.append(other - full)
        print(f"| {checkpoint.parent.name} | {full:.3f} | {other:.3f} | {other - full:+.3f} | {same / total:.1%} of {total} |", flush=True)
    if len(differences) > 1:
        largest, within = max(map(abs, differences)), sum(abs(difference) <= 0.05 for difference in differences)
        print(f"\nmean {statistics.mean(differences):+.3f}, largest {largest:.3f}, {within} of {len(differences)} within 0.05")


if __name__ == "__main__":
    main()
