"""Made-up studies for the tests of the report: predictions files with known qualities, no training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from fusion_det.compare.fairness import Difference
from fusion_det.compare.judge import judge
from fusion_det.compare.outcome import Failure, Outcome
from fusion_det.compare.run_record import RunRecord
from fusion_det.config.compare_schema import StatisticsSettings

HOSTILE = ("<script>alert(1)</script>", 'a|b"><img src=x onerror=alert(2)>', "=cmd()\x1b[31m`$x$` [l](http://e.example)")
CLASSES = ("disk", "square", "triangle", "checker")
HOSTILE_CLASSES = ("<b>bold</b>", "p|pe", "\x1b[2Jwipe", "'\"&amp;")


def truth(names: tuple[str, ...] = CLASSES, *, images: int = 60, seed: int = 0) -> dict:
    """A COCO dict with about four boxes of three sizes on each image."""
    rng = np.random.default_rng(seed)
    annotations = []
    for image in range(images):
        for _ in range(int(rng.integers(2, 6))):
            w, h = np.exp(rng.uniform(np.log(12), np.log(220), 2))
            x, y = rng.uniform(0, 400, 2)
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": image + 1, "category_id": int(rng.integers(len(names))) + 1,
                    "bbox": [float(x), float(y), float(w), float(h)], "area": float(w * h), "iscrowd": 0,
                }
            )  # fmt: skip
    return {
        "images": [{"id": image + 1, "width": 640, "height": 640} for image in range(images)],
        "annotations": annotations,
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(names)],
    }


def records(data: dict, *, seed: int, recall: float, jitter: float, levels: bool = True) -> list[dict]:
    """Detections of ``data``: moved boxes, some of the wrong class, some of nothing."""
    rng, noise = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    found = []
    for annotation in data["annotations"]:
        if rng.random() > recall:
            continue
        x, y, w, h = annotation["bbox"]
        dx, dy, dw, dh = noise.normal(0, jitter, 4)
        category = annotation["category_id"] if rng.random() > 0.06 else int(rng.integers(len(data["categories"]))) + 1
        box = [x + dx * w, y + dy * h, w * float(np.exp(dw)), h * float(np.exp(dh))]
        found.append({"image_id": annotation["image_id"], "category_id": category, "bbox": box, "score": float(rng.beta(4, 2))})
    for _ in range(len(data["images"])):
        w, h = np.exp(rng.uniform(np.log(12), np.log(220), 2))
        box = [*map(float, rng.uniform(0, 400, 2)), float(w), float(h)]
        image, category = int(rng.integers(len(data["images"]))) + 1, int(rng.integers(len(data["categories"]))) + 1
        found.append({"image_id": image, "category_id": category, "bbox": box, "score": float(rng.beta(2, 4))})
    for record in found if levels else []:
        size = float(np.sqrt(record["bbox"][2] * record["bbox"][3]))
        record["level"] = f"P{int(np.clip(3 + np.log2(size / 40), 3, 5))}"
    return found


def study(
    folder: Path,
    qualities: dict[str, tuple[float, float]],
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    classes: tuple[str, ...] = CLASSES,
    resamples: int = 200,
    levels: bool = True,
    images: int = 60,
) -> Outcome:
    """A judged study; ``qualities``: recall and jitter by arm, the first is the baseline."""
    data = truth(classes, images=images)
    names = list(qualities)
    runs = []
    for number, (arm, (recall, jitter)) in enumerate(qualities.items()):
        for seed in seeds:
            place = folder / "runs" / f"arm{number}" / f"seed{seed}"
            place.mkdir(parents=True)
            file = place / "predictions.json"
            file.write_text(json.dumps(records(data, seed=100 * seed, recall=recall - 0.01 * seed, jitter=jitter, levels=levels)))
            runs.append(_record(arm, number, seed, place, file, recall))
    baseline = names[0]
    comparison = judge(runs, data, StatisticsSettings(resamples=resamples), baseline=baseline)
    sheet = tuple(
        Difference(baseline, other, "fusion._target_", ("add.Add", f"{other}.Part"), "variable", "named by the arms") for other in names[1:]
    )
    return Outcome(
        "study <1>" if "<" in names[-1] else "operators", folder, baseline, "AP", {arm: (f"fusion={arm}",) for arm in names}, tuple(runs),
        fairness=sheet, comparison=comparison, ground_truth=data, annotations="annotations.json", budget="4 epochs",
        notes=("numbers are of the last epoch",),
    )  # fmt: skip


def _record(arm: str, number: int, seed: int, place: Path, file: Path, recall: float) -> RunRecord:
    history = tuple({"step": 100 * i, "val/AP": recall * (1 - 0.7**i) * (1 + 0.01 * seed)} for i in range(1, 9))
    return RunRecord(
        arm, seed, file, place, place, config={"data": {"_target_": "fusion_det.data.scenes.scenes"}, "seed": seed},
        words=(f"fusion={arm}", f"seed={seed}"), start={"hardware": "2 cores", "steps": 800, "images": {"train": 96}},
        results={"summary": {"AP": 0.3, "AP50": 0.5, "AP75": None}, "parameters": 100_000 + 12_345 * number, "precision": "fp32"},
        environment={"python": "3.11", "packages": {"torch": "2.15"}}, history=history, seconds=100.0 + seed,
    )  # fmt: skip


def with_failure(outcome: Outcome) -> Outcome:
    """The same with a run that did not finish."""
    message = "RuntimeError: <b>out of memory</b> | \x1b[31mred"
    return replace(outcome, failures=(Failure(list(outcome.arms)[-1], 3, "failed", message, outcome.folder / "seed3.log"),))


def without_verdict(outcome: Outcome) -> Outcome:
    """The same with a fatal difference."""
    fatal = Difference(*list(outcome.arms)[:2], "validation data", ("aa", "<bb>"), "fatal", "the numbers are about different things")
    reason = "a and b: validation data differs ('aa' and '<bb>'): the numbers are about different things"
    return replace(outcome, fairness=(fatal, *outcome.fairness), comparison=None, no_verdict=(reason,), ground_truth={}, annotations="")
